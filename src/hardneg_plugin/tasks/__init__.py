"""What a frozen, pre-trained encoder is worth: tasks over features already computed, with neither a model nor a config."""
