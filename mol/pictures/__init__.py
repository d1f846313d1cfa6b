"""Pictures of faces, flow, evaluations and predictions, in one style."""
