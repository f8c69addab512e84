# What CI runs, all of it.
ci:
    .ci/run
