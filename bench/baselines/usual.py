"""CCC as it is usually written in PyTorch: the search by `topk` in the tensors' own precision, edges as differences.

`molkernels.reference` searches in float64 and orders equal similarities, which costs a GPU far more than this. Of two
neighbours of nearly equal similarity this form may take the other.
"""

from torch import Tensor
from torch.nn import functional as F

from molkernels import reference


def knn(nodes: Tensor, k: int) -> Tensor:
    """The k nearest nodes by cosine similarity, in any order among equals.  (N, M, D) → int64 (N, M, k)."""
    unit = F.normalize(nodes, dim=2)
    return (unit @ unit.mT).topk(k, dim=2).indices


def ccc(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, k: int, graph: str) -> Tensor:
    """The formula of `molkernels.reference.ccc`, every edge by itself.  (N, C, P) → (N, C, P)."""
    idx = knn(reference.graph_nodes(x.detach(), graph), k)
    if graph == "channel":
        n, c, p = x.shape
        neighbours = x.gather(1, idx.reshape(n, c * k, 1).expand(n, c * k, p)).view(n, c, k, p)
        differences = neighbours - x[:, :, None]
    else:
        differences = reference.gather_positions(x, idx) - 2 * x[:, :, None]
    edges = F.linear(x, weight1, bias1)[:, :, None] + F.linear(differences, weight2, bias2)
    return F.relu(edges).max(2).values
