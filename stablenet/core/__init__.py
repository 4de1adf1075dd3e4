"""What everything else is written in: networks, questions, bounds, options, errors, rounding."""
