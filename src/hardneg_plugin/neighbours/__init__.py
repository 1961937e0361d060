"""Each study's nearest others: tables, search, embedders."""
