"""What is measured about the reports that a model wrote for a split."""
