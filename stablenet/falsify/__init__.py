"""The hunt for witnesses: inputs that show the sign of a pre-activation."""
