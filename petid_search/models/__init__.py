"""Networks and what is made of them: backbones, heads, bundles on disk, and the runtime that embeds."""
