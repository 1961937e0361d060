"""Where hard negatives come from."""
