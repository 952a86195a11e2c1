"""An objective of distillation, in a module of its own: it imports nothing until it is used."""


def kd_l1(student, teacher, config):
    """Mean over the batch of the sum of |w_i - z_i|."""
    return (student.pooled - teacher.pooled).abs().sum(1).mean()
