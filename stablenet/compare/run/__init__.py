"""Running the cells of a grid: processes, limits, workers."""
