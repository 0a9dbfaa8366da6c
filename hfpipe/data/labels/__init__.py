"""Label columns: classes with ids, lists of classes, and numbers."""
