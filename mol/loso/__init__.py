"""Leave one subject out: folds, their results, pooled scores and tables."""
