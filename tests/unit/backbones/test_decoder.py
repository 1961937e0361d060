import pytest

from hardneg_plugin.backbones.decoder import IncrementalDecoder, ReportDecoder
from hardneg_plugin.backbones.decoding import DecoderState


@pytest.mark.parametrize("abstract", [DecoderState, ReportDecoder, IncrementalDecoder])
def test_incomplete_decoders_cannot_be_made(abstract: type) -> None:
    class Incomplete(abstract):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Incomplete()
