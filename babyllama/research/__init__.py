"""Studies beyond the plain recipe: curriculum, distillation, milestones by words, sweeps.

Four neighbours that do not import each other. This room imports from every room below: comparison, training,
evaluation, data, models, pages, config, common and plugins.
"""
