"""Finding stable neurons: the steps of a run, the engine process and its supervisor."""
