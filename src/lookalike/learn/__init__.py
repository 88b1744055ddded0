"""Models, losses and training. Needs the extra `train`; whoever imports it from outside does so lazily."""
