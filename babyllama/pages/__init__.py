"""What a person reads: HTML pages, figures, tables, terminal, model card, made from plain dicts. No torch.

This room imports from config, common and plugins.
"""
