"""Many steps in two processes leave memory flat and ranks alike, and repeat no warning."""

import sys
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # where spawned processes look, too
from soak_ranks import OBJECTIVES, STEPS, soak


def test_soak(tmp_path):
    on_0, on_1 = soak(tmp_path)
    for name in OBJECTIVES:
        for seen in (on_0[name], on_1[name]):
            assert seen["steps"] == STEPS
            assert seen["epochs"] == -(-STEPS // 32)  # 250 studies, 8 in a step
            looks = seen["looks"]
            assert len(looks) == 8
            assert len({look["tensors"] for look in looks[2:]}) == 1
            # what the first half takes, allocators keep
            assert looks[-1]["kib"] < looks[3]["kib"] + 4 * 1024, [look["kib"] for look in looks]
            assert not [text for text, times in Counter(seen["warnings"]).items() if times > 1]
            assert looks[-1]["alignment_loss"] < looks[0]["alignment_loss"]
        checksums = [[look["checksum"] for look in seen[name]["looks"]] for seen in (on_0, on_1)]
        assert checksums[0] == checksums[1]
        assert len(set(map(str, checksums[0]))) == len(checksums[0])  # what is compared moves
