"""What was found, as JSON: the report file and the evidence in it."""
