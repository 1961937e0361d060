import pytest

from hardneg_plugin.backbones.decoder import DecoderState, IncrementalDecoder, ReportDecoder


@pytest.mark.parametrize("abstract", [DecoderState, ReportDecoder, IncrementalDecoder])
def test_incomplete_decoders_cannot_be_made(abstract: type) -> None:
    class Incomplete(abstract):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Incomplete()
