"""A recipe whose settings vary: the axes of its `matrix`, and the stages that it stands for."""
