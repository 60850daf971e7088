"""petid: which individual animal does a photo show, or is it none of those known?"""

__version__ = "0.1.0"
