"""Theory beside the law: SDE bounds, limits, closed-form scaling rules."""
