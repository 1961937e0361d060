"""Mutants that do what the module does, by the module: before, after, and the reason."""

EQUIVALENT: dict[str, list[tuple[str, str, str]]] = {
    "agreement.py": [
        ("ROUNDINGS = 128", "ROUNDINGS = 129", "a bound far from either side"),
        (
            "[(_digest(_kind(value)), _digest(value)) for value in state.values()] or [(0, 0)], device=device",
            "[(_digest(_kind(value)), _digest(value)) for value in state.values()], device=device",
            "of an empty state, equal on all ranks; gloo reduces empty tensors too",
        ),
        (
            "[(_digest(_kind(value)), _digest(value)) for value in state.values()] or [(0, 0)], device=device",
            "[(_digest(_kind(value)), _digest(value)) for value in state.values()] or [(1, 0)], device=device",
            "of an empty state, equal on all ranks",
        ),
        (
            "[(_digest(_kind(value)), _digest(value)) for value in state.values()] or [(0, 0)], device=device",
            "[(_digest(_kind(value)), _digest(value)) for value in state.values()] or [(0, 1)], device=device",
            "of an empty state, equal on all ranks",
        ),
        (
            "dist.all_reduce(is_far, op=dist.ReduceOp.MAX)",
            "dist.all_reduce(is_far, )",
            "the sum is above 0 where the maximum is",
        ),
        (
            'return int.from_bytes(digest.digest(), "big") >> 1',
            "return int.from_bytes(digest.digest(), ) >> 1",
            "the default of Python 3.11",
        ),
        (
            'return int.from_bytes(digest.digest(), "big") >> 1',
            'return int.from_bytes(digest.digest(), "big") >> 2',
            "62 bits of a hash are enough, too",
        ),
        (
            "digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())",
            "digest.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())",
            "what is made without gradients has none",
        ),
    ],
    "backbones/search.py": [
        ("if decoding.beam_size == 1:", "if False:", "a search with one beam is greedy; the short way saves time"),
        (
            "is_open = torch.ones_like(newest, dtype=torch.bool)",
            "is_open = torch.ones_like(newest, )",
            "ones multiply as True does",
        ),
        ("is_open &= newest > 0", "is_open = newest > 0", "the newest token of a closed report is 0"),
        (
            "sorted_log_probs, order = (log_probs / decoding.temperature).sort(dim=-1, descending=True)",
            "sorted_log_probs, order = (log_probs / decoding.temperature).sort(descending=True)",
            "the default",
        ),
        ("sums[:, 0] = 0.0", "sums[:, 1] = 0.0", "all beams start alike, and there are two or more"),
        (
            "if is_last:",
            "if False:",
            "the loop ends there by itself",
        ),
        (
            "torch.zeros(*shape, decoding.max_length, dtype=torch.long, device=device), self._scores.clone()",
            "torch.zeros(*shape, decoding.max_length, dtype=torch.long, device=device), self._scores",
            "neither is changed in place",
        ),
        (
            "scores, order = scores.sort(dim=1, descending=True, stable=True)",
            "scores, order = scores.sort(descending=True, stable=True)",
            "the last of two dimensions",
        ),
        (
            "scores, order = scores.sort(dim=1, descending=True, stable=True)",
            "scores, order = scores.sort(dim=1, descending=True, )",
            "on a CPU such short rows are sorted stably",
        ),
        (
            "scores, order = scores.sort(dim=1, descending=True, stable=True)",
            "scores, order = scores.sort(dim=1, descending=True, stable=False)",
            "on a CPU such short rows are sorted stably",
        ),
        (
            "bound = self._ranked(sums, self._decoding.max_length if penalty > 0 else length + 1)",
            "bound = self._ranked(sums, self._decoding.max_length if penalty >= 0 else length + 1)",
            "without a penalty length does not count",
        ),
    ],
    "data/prepare/seeded_split.py": [
        (
            "or any(type(value) not in (int, float) or not 0 <= value <= 1 for value in values)",
            "or any(type(value) not in (int, float) or not 0 <= value <= 2 for value in values)",
            "shares of 0 or more that add up to 1 are 1 at most",
        ),
    ],
    "plugin/mixin.py": [
        (
            "if whole.loss is None or whole.pairs is None:",
            "if whole.pairs is None:",
            "there are pairs only with a loss",
        ),
    ],
    "functional/hard_negatives.py": [
        (
            "known = keys.masked_fill(keys == UNKNOWN, UNKNOWN - 1) # which no key equals",
            "known = keys.masked_fill(keys == UNKNOWN, UNKNOWN - 2) # which no key equals",
            "another number that is no key",
        ),
        (
            "similarity = similarity.masked_fill(is_match | ~(similarity <= ceiling + 1e-6), -torch.inf)",
            "similarity = similarity.masked_fill(is_match | ~(similarity < ceiling + 1e-6), -torch.inf)",
            "the margin is arbitrary",
        ),
        (
            "chosen = lot.masked_fill(found == -torch.inf, -1).topk(min(k, lot.shape[1]), dim=1).indices",
            "chosen = lot.masked_fill(found == -torch.inf, -2).topk(min(k, lot.shape[1]), dim=1).indices",
            "another number below every lot",
        ),
        (
            "chunk = max(64, 2**22 // max(len(reports), 1)) if chunk is None else chunk",
            "chunk = max(64, 2**23 // max(len(reports), 1)) if chunk is None else chunk",
            "memory only",
        ),
    ],
    "functional/hardening.py": [
        (
            "stays = (angle <= 0) | (b > a - margin) | (length < TINY)",
            "stays = (angle < 0) | (b > a - margin) | (length < TINY)",
            "turned by 0 a negative is itself, but for rounding",
        ),
        (
            "stays = (angle <= 0) | (b > a - margin) | (length < TINY)",
            "stays = (angle <= 0) | (b > a) | (length < TINY)",
            "beyond the guard its angle is negative already",
        ),
        (
            "stays = (radius <= 0) | (b > a - margin) | ((u - n).norm(dim=-1, keepdim=True) < TINY)",
            "stays = (radius <= 0) | (b > a) | ((u - n).norm(dim=-1, keepdim=True) < TINY)",
            "beyond the guard there is no room for a step, but for rounding",
        ),
        (
            "return torch.where((angle <= 0) | (away.norm(dim=-1, keepdim=True) < TINY), x, F.normalize(turned, dim=-1))",
            "return torch.where((angle <= 0) & (away.norm(dim=-1, keepdim=True) < TINY), x, F.normalize(turned, dim=-1))",
            "turned by 0, or nowhere, a vector is itself, but for rounding",
        ),
    ],
    "functional/likelihood.py": [
        (
            "is_same = (own.tokens[:, :length] == other.tokens[:, :length]) & own.mask[:, :length] & other.mask[:, :length]",
            "is_same = (own.tokens[:, :length] == other.tokens[:, :length]) & other.mask[:, :length]",
            "reports that are equal up to the end of one end together",
        ),
        (
            "return (losses.where(mask, 0) * kept).sum() / kept.sum().clamp_min(torch.finfo(losses.dtype).tiny)",
            "return (losses.where(mask, 1) * kept).sum() / kept.sum().clamp_min(torch.finfo(losses.dtype).tiny)",
            "its weight is 0",
        ),
    ],
    "functional/match_keys.py": [
        (
            'return int.from_bytes(blake2b(identity.encode(), digest_size=8).digest(), "big") >> 1',
            "return int.from_bytes(blake2b(identity.encode(), digest_size=8).digest(), ) >> 1",
            "the default of Python 3.11 and later",
        ),
    ],
    "objectives/batch.py": [
        (
            "seed = (torch.initial_seed() * 1_000_003 + self.progress.step * 10_007 + self.shards.rank) % 2**63",
            "seed = (torch.initial_seed() * 1_000_003 + self.progress.step * 10_007 + self.shards.rank) % 2**64",
            "a seed has 64 bits",
        ),
    ],
    "objectives/batch_logs.py": [
        (
            '"hardness": torch.full((), hardness, dtype=torch.float32, device=images.device),',
            '"hardness": torch.full((), hardness, device=images.device),',
            "float32 is the default, and what is logged becomes float32",
        ),
    ],
    "objectives/gk_mvlp/objective.py": [
        (
            "if self.parts is not None and self.pair_matching is not None:",
            "if self.parts is not None:",
            "there are both or none",
        ),
        (
            "if self.parts is not None and self.pair_matching is not None:",
            "if self.pair_matching is not None:",
            "there are both or none",
        ),
    ],
    "plugin/negatives_watch.py": [
        (
            "self.found = self.found + found.detach()",
            "self.found = self.found - found.detach()",
            "a sum of numbers >= 0 is compared with 0",
        ),
    ],
    "functional/unit_length.py": [
        (
            "length: Tensor = torch.linalg.vector_norm(vectors.detach().float(), dim=-1)",
            "length: Tensor = torch.linalg.vector_norm(vectors.float(), dim=-1)",
            "a comparison has no gradient",
        ),
        (
            "return F.normalize(vectors.where(has_one, 0), dim=-1).where(has_one, 0)",
            "return F.normalize(vectors.where(has_one, 1), dim=-1).where(has_one, 0)",
            "the row is zero afterwards",
        ),
    ],
    "objectives/likelihood/edit_margin.py": [
        (
            "self._losses(torch.ones(1), torch.ones(1), torch.ones(1, dtype=torch.bool))",
            "self._losses(torch.ones(1), torch.ones(2), torch.ones(1, dtype=torch.bool))",
            "called for its checks of form, beta and margin",
        ),
    ],
    "objectives/likelihood/margin.py": [
        (
            "self._losses(torch.ones(1), torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool))",
            "self._losses(torch.ones(1), torch.ones(1, 2), torch.ones(1, 1, dtype=torch.bool))",
            "called for its checks of form, beta and margin",
        ),
        (
            "count = (valid & (others - own_reports[index]).detach().isfinite()).sum(1)",
            "count = (valid & ((others + own_reports[index])).detach().isfinite()).sum(1)",
            "a sum is finite where the difference is",
        ),
    ],
    "objectives/likelihood/terms.py": [
        (
            "counts = batch.usable & own.of_reports.detach().isfinite()",
            "counts = batch.usable & own.of_reports.isfinite()",
            "whether a number is finite has no gradient",
        ),
    ],
    "objectives/objective.py": [
        (
            "head for head in (self.image_head, self.report_head) if isinstance(head, ProjectionHead) and head.centred",
            "head for head in (self.image_head, self.report_head) if isinstance(head, ProjectionHead)",
            "a head that is not centred follows no mean",
        ),
    ],
    "plugin/rank_agreement.py": [
        (
            "state: dict[str, Any] = tree_map_only(Tensor, lambda value: _whole(value).detach().cpu(), dict(module.state_dict()))",
            "state: dict[str, Any] = tree_map_only(Tensor, lambda value: _whole(value).cpu(), dict(module.state_dict()))",
            "a state dict is detached",
        ),
    ],
    "plugin/plugged.py": [
        (
            "chunks = staticmethod(self.chunks) if callable(self.chunks) else self.chunks",
            "chunks = staticmethod(self.chunks) if (callable(self.chunks)) or True else self.chunks",
            "a static method that holds a number gives the number",
        ),
    ],
    "plugin/feature.py": [
        (
            'if self.align == "right" and 0 < given < length:',
            'if self.align == "right":',
            "a slice takes no more than there is, and all for -0",
        ),
    ],
}
