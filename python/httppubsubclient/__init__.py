"""The names of the first README and of the published client, for ``httppubsub``."""
