"""What a person reads. Functions from plain dicts to HTML, SVG, tables, text. No torch.

May import config, common and plugins.
"""
