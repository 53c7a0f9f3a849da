"""CLAM with a single attention branch (Lu et al. 2021): gated attention with an instance loss on its extremes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sgcl_cli.probe.mil.abmil import GatedAttention
from sgcl_cli.probe.mil.bags import Bags, segment_softmax, weighted_sum
from sgcl_cli.probe.mil.model import Output
from sgcl_cli.probe.models.targets import Target

EXTREMES = 8
BAG_WEIGHT = 0.7
MARGIN = 1.0


class Clam(GatedAttention):
    """Scores as gated attention;  loss = c1 L_bag + (1 - c1) L_rows,  c1 = 0.7.

    P are the k rows with the highest and Q the k rows with the lowest attention in a bag of class y; each class has a binary
    classifier of rows. The target of classifier y is 1 on P and 0 on Q. With two classes L_rows is the mean loss of this
    classifier, as in the released code without ``--subtyping``. With more (mutually exclusive) classes the target of every
    other classifier is 0 on P, and L_rows is the mean over the classes, as with ``--subtyping``.

    The loss of a row is the smooth top-1 SVM of Berrada, Zisserman, Kumar 2018 with margin 1 and temperature 1, which
    for two classes is log(1 + exp(1 + s_other - s_true)). k = 8, in bags of fewer than 16 rows half of the rows; a single row
    is in P only. Targets without classes (survival, measurements) use L_bag only.
    """

    def __init__(self, mean: Tensor, scale: Tensor, *, outputs: int, hidden: int = 128, dropout: float = 0.25) -> None:
        super().__init__(mean, scale, outputs=outputs, hidden=hidden, dropout=dropout)
        self.rows = nn.ModuleList(nn.Linear(hidden, 2) for _ in range(outputs))

    def forward(self, bags: Bags) -> Output:
        """Scores (B, K) and attention (N,)."""
        e_NH = self.embedded(bags)
        s_N = self.attend(e_NH)
        a_N = segment_softmax(s_N, bags)
        return Output(self.classify(weighted_sum(a_N, e_NH, bags)), a_N, {"embedded": e_NH, "ranking": s_N.detach()})

    def loss(self, output: Output, bags: Bags, target: Target, chosen: Tensor) -> Tensor:
        """c1 L_bag + (1 - c1) L_rows."""
        bag_loss = target.loss(output.scores, chosen)
        if target.classes is None:
            return bag_loss
        embedded, ranking = bags.split(output.inner["embedded"]), bags.split(output.inner["ranking"])
        labels = target.classes[chosen].tolist()
        of_bags = [self._row_loss(e, s, y) for e, s, y in zip(embedded, ranking, labels, strict=True)]
        return BAG_WEIGHT * bag_loss + (1 - BAG_WEIGHT) * torch.stack(of_bags).mean()

    def _row_loss(self, e_nH: Tensor, s_n: Tensor, label: int) -> Tensor:
        count = max(1, min(EXTREMES, len(s_n) // 2))
        most = e_nH[s_n.topk(count).indices]
        least = e_nH[s_n.topk(count, largest=False).indices] if len(s_n) > 1 else e_nH[:0]
        losses = []
        for c, classify in enumerate(self.rows):
            if c == label:
                truth = torch.tensor([1] * len(most) + [0] * len(least), device=s_n.device)
                losses.append(smooth_svm(classify(torch.cat([most, least])), truth))
            elif len(self.rows) > 2:
                losses.append(smooth_svm(classify(most), torch.zeros(len(most), dtype=torch.long, device=s_n.device)))
        return torch.stack(losses).mean()


def smooth_svm(scores_n2: Tensor, truth_n: Tensor) -> Tensor:
    """Mean over rows of log(1 + exp(1 + s_other - s_true)), scores (n, 2), truth in {0, 1}."""
    true = scores_n2.gather(1, truth_n[:, None])
    other = scores_n2.gather(1, 1 - truth_n[:, None])
    return nn.functional.softplus(MARGIN + other - true).mean()
