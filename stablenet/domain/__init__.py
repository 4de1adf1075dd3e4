"""Sets of inputs: boxes, balls, polytopes, unions, and the files and words that name them."""
