"""How well a model tells the individuals of a folder apart: closed-set and open-set figures, a report and its plots."""
