"""One rank of many: the program that it runs, and how it is measured and drawn."""
