"""Features of modules that are called several times, masks of other lengths, and callables that get the host."""

import copy
import functools
import operator
import warnings

import pytest
import torch
from torch import nn

from hardneg_plugin import Feature, PairEmbeddings
from hardneg_plugin.errors import UserError
from hardneg_plugin.plugin.feature import closed_over
from hardneg_plugin.plugin.feature_paths import FeaturePaths, recorded


class Views(nn.Module):
    """An encoder for each of three views, a word loop, and a decoder whose output has two positions before the text."""

    def __init__(self):
        super().__init__()
        self.encoder, self.pooled, self.maps = nn.Linear(4, 6), nn.Linear(4, 6), nn.Conv2d(3, 6, 1)
        self.word, self.decoder, self.keeps = nn.Linear(5, 6), nn.Linear(5, 6), nn.Identity()
        self.unused = nn.Identity()

    def forward(self, batch):
        for view in batch["views"]:
            self.encoder(view)
            self.pooled(view[:, 0])
        for picture in batch["maps"]:
            self.maps(picture)
        for token in batch["text"].unbind(1):
            self.word(token)
        prefix = torch.zeros_like(batch["text"][:, :2])
        self.decoder(torch.cat([prefix, batch["text"]], dim=1))
        self.keeps(batch["mask"])


def step(host=None, studies=3, **places):
    torch.manual_seed(0)
    host = host or Views()
    batch = {
        "views": [torch.randn(studies, 2, 4) for _ in range(3)],
        "maps": [torch.randn(studies, 3, 2, 5) for _ in range(3)],
        "text": torch.randn(studies, 7, 5),
        "mask": torch.arange(7) < torch.tensor([[3], [5], [7]]),
        "view_mask": torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]]),
    }
    features = FeaturePaths(**{"images": Feature("encoder", calls="mean"), "reports": "decoder", **places})
    with recorded(features.modules(host)) as calls:
        host(batch)
    return features.pairs(host, batch, None, calls), host, batch


def by_hand(host, batch):
    """Of each study, what the encoder makes of its views: `(B, view, patch, width)`."""
    return torch.stack([host.encoder(view) for view in batch["views"]], dim=1)


@pytest.mark.parametrize(
    ("calls", "patches"),
    [
        ("mean", lambda views: views.mean(1)),
        ("last", lambda views: views[:, 2]),
        (0, lambda views: views[:, 0]),
        (1, lambda views: views[:, 1]),
        ("stack", lambda views: views.flatten(1, 2)),
    ],
)
def test_calls_of_a_module_by_view(calls, patches):
    pairs, host, batch = step(images=Feature("encoder", calls=calls))
    expected = patches(by_hand(host, batch))
    assert torch.equal(pairs.regions, expected)
    assert torch.allclose(pairs.images, expected.mean(1))
    gradient = torch.autograd.grad(pairs.images.square().sum(), host.encoder.weight)[0]
    assert torch.allclose(gradient, torch.autograd.grad(expected.mean(1).square().sum(), host.encoder.weight)[0])


def test_a_mask_of_a_stack_counts_for_views_or_for_positions():
    host, batch = step()[1:]
    views = by_hand(host, batch)
    expected = torch.stack([one[: int(kept)].flatten(0, 1).mean(0) for one, kept in zip(views, (3, 2, 1), strict=True)])
    by_view = step(images=Feature("encoder", calls="stack"), image_mask="batch.view_mask")[0]
    assert torch.allclose(by_view.images, expected, atol=1e-6)
    assert by_view.region_mask.sum(1).tolist() == [6, 4, 2]
    by_position = step(
        images=Feature("encoder", calls="stack", mask=lambda b, o: b["view_mask"].repeat_interleave(2, 1))
    )
    assert torch.equal(by_position[0].images, by_view.images)
    pooled = step(images=Feature("pooled", calls="stack", mask="batch.view_mask"))[0]
    vectors = torch.stack([host.pooled(view[:, 0]) for view in batch["views"]], dim=1)
    assert torch.equal(pooled.regions, vectors)
    assert torch.allclose(pooled.images[2], vectors[2, 0])


def test_a_map_keeps_its_rows_and_columns_apart():
    pairs, _, batch = step(images=lambda batch, outputs: batch["maps"][0])
    assert pairs.grid == (2, 5)
    assert torch.equal(pairs.regions, batch["maps"][0].flatten(2).transpose(1, 2))
    assert torch.equal(pairs.regions[1].unflatten(0, pairs.grid)[1, 3], batch["maps"][0][1, :, 1, 3])


def test_stacked_maps_keep_the_grid_of_a_view():
    pairs, host, batch = step(images=Feature("maps", calls="stack"))
    expected = torch.cat([host.maps(one).flatten(2).transpose(1, 2) for one in batch["maps"]], dim=1)
    assert pairs.grid == (2, 5)
    assert torch.equal(pairs.regions, expected)
    mean = step(images=Feature("maps", calls="mean"))[0]
    assert mean.grid == (2, 5)
    assert torch.allclose(mean.images, expected.mean(1), atol=1e-6)


def test_a_word_loop_is_a_text():
    pairs, host, batch = step(reports=Feature("word", calls="stack"), report_mask="batch.mask")
    assert torch.allclose(pairs.words, host.word(batch["text"]), atol=1e-6)
    assert torch.allclose(pairs.reports[0], host.word(batch["text"][0, :3]).mean(0), atol=1e-6)


@pytest.mark.parametrize("mask", ["batch.mask", "keeps", Feature("keeps"), lambda host, batch, outputs: batch["mask"]])
def test_a_mask_counts_for_the_last_positions(mask):
    places = {"reports": Feature("decoder", align="right"), "report_mask": mask}
    for given in (places, {"reports": Feature("decoder", align="right", mask=mask)}):
        pairs, host, batch = step(**given)
        states = host.decoder(batch["text"])
        assert torch.allclose(pairs.words, states, atol=1e-6)
        for i, length in enumerate((3, 5, 7)):
            assert torch.allclose(pairs.reports[i], states[i, :length].mean(0), atol=1e-6)
    with pytest.raises(UserError, match=r"report_mask has 7 positions, but the features \(3, 9, 6\).*align=\"right\""):
        step(reports="decoder", report_mask=mask)
    with pytest.raises(UserError, match=r"report_mask has 9 positions, but the features \(3, 7, 6\) have 7"):
        step(reports=Feature("word", calls="stack", align="right", mask=lambda b, o: torch.ones(3, 9)))


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"images": "encoder"}, r"'encoder' to be called once.*3 times. Give Feature\('encoder', calls=\"mean\"\).*describe"),
        ({"images": Feature("encoder")}, r"'encoder' to be called once.*called 3 times"),
        ({"images": "unused"}, r"'unused' to be called once.*called 0 times. Return the features from training_step"),
        ({"images": Feature("unused", calls="mean")}, r"'unused' to be called at least once.*called 0 times. Return the"),
        ({"images": Feature("unused", calls=0)}, r"'unused' to be called at least once.*called 0 times. Return the"),
        ({"images": Feature("encoder", calls=3)}, r"at least 4 calls of the module, for calls=3 counts from 0, but there were 3"),
        ({"images": Feature("encoder.0", calls="mean")}, r"the output of 'encoder' has no '0': it is a tensor"),
        ({"images": Feature("encodr", calls="mean")}, r"images='encodr': Views has no module 'encodr'.*describe\(host, batch\)"),
        ({"report_mask": Feature("keeps", mask="encoder")}, r"report_mask=Feature\('keeps'\): mask and align go with images"),
        ({"reports": Feature("decoder", mask="keeps"), "report_mask": "keeps"}, r"has a mask, and so has report_mask: give one"),
        ({"texts": lambda batch: 0}, r"texts: expected a callable \(batch, outputs\) or \(host.*<lambda>\(batch\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told(places, message):
    with pytest.raises(UserError, match=message):
        step(**places)


@pytest.mark.parametrize(
    ("options", "length", "given", "calls", "expected"),
    [
        ({"calls": "stack"}, 6, 3, 3, (6, 6)),  # a column for each call
        ({"calls": "stack"}, 7, 3, 3, (7, 3)),  # the calls differed in length
        ({"calls": "stack"}, 6, 3, 2, (6, 3)),
        ({"calls": "mean"}, 6, 3, 3, (6, 3)),
        ({"calls": "stack", "align": "right"}, 7, 3, 3, (3, 3)),
        ({"align": "right"}, 6, 4, 1, (4, 4)),
        ({"align": "right"}, 6, 6, 1, (6, 6)),
        ({"align": "right"}, 4, 6, 1, (4, 6)),
        ({"align": "right"}, 4, 0, 1, (4, 0)),
        ({}, 6, 4, 1, (6, 4)),
    ],
)
def test_features_and_a_mask_are_brought_together_or_left_as_they_are(options, length, given, calls, expected):
    features, mask = torch.arange(2.0 * length).view(2, length, 1), torch.arange(2 * given).view(2, given)
    fitted, fitted_mask = Feature("encoder", **options).fitted(features, mask, calls)
    assert (fitted.shape[1], fitted_mask.shape[1]) == expected
    assert torch.equal(fitted, features[:, length - expected[0] :])
    assert torch.equal(fitted_mask, mask if given == expected[1] else mask.repeat_interleave(length // calls, 1))


@pytest.mark.parametrize(
    ("features", "mask"),
    [
        (torch.zeros(2, 6), torch.zeros(2, 4)),
        (torch.zeros(2, 3, 6, 6), torch.zeros(2, 4)),
        (torch.zeros(2, 6, 3), torch.zeros(2, 4, 1)),
        (torch.zeros(2, 6, 3), None),
        ([1, 2], torch.zeros(2, 4)),
    ],
)
def test_what_is_no_sequence_with_a_mask_stays_as_it_is(features, mask):
    fitted, fitted_mask = Feature("encoder", align="right").fitted(features, mask, 1)
    assert fitted is features
    assert fitted_mask is mask


def test_a_path_into_the_batch_may_have_a_mask():
    feature = Feature("batch.images", mask="batch.mask", align="right")
    assert (feature.path, feature.mask, feature.align) == ("batch.images", "batch.mask", "right")


def test_paired_studies_are_handed_on():
    paired = PairEmbeddings(torch.ones(6, 6), torch.ones(6, 6))
    assert step(negatives=lambda batch, outputs: paired)[0].negatives is paired
    with pytest.raises(UserError, match=r"negatives: expected paired studies as PairEmbeddings.*got a list"):
        step(negatives=lambda batch, outputs: [1])


@pytest.mark.parametrize("options", [{"mask": "keeps"}, {"align": "right"}])
def test_mask_and_align_go_with_images_and_reports(options):
    with pytest.raises(UserError, match=r"texts=Feature\('keeps'\): mask and align go with images and reports"):
        FeaturePaths(images="encoder", reports="decoder", texts=Feature("keeps", **options))


@pytest.mark.parametrize("calls", ["first", -1, True, 1.0])
def test_calls_are_checked(calls):
    with pytest.raises(
        UserError, match=r"Feature\('encoder'\)\.calls: expected None, 'mean', 'last', 'stack' or an int"
    ):
        Feature("encoder", calls=calls)
    with pytest.raises(UserError, match=r"goes with the path of a module"):
        Feature("batch.images", calls="mean")
    with pytest.raises(UserError, match=r"\.align: expected 'left' or 'right'"):
        Feature("encoder", align="centre")


def test_calls_of_other_shapes_are_told():
    for calls, shapes in (("mean", [(2, 3, 4), (2, 5, 4)]), ("stack", [(2, 3, 4), (2, 3, 5)])):
        outputs = [torch.zeros(shape) for shape in shapes]
        with pytest.raises(
            UserError, match=r"images=Feature\('encoder'\): expected outputs of one shape.*\(2, 3, 4\) and"
        ):
            Feature("encoder", calls=calls).of_calls(outputs, "images")
        with pytest.raises(UserError, match=r"but got a tuple: add a key or an index to the path"):
            Feature("encoder", calls=calls).of_calls([(1, 2)], "images")
    assert Feature("encoder", calls="stack").of_calls([torch.zeros(2, 3, 4), torch.zeros(2, 5, 4)], "x").shape == (
        2,
        8,
        4,
    )


def test_a_callable_of_three_arguments_gets_the_host_of_the_step():
    images = lambda host, batch, outputs: host.pooled(batch["views"][0][:, 0])  # noqa: E731
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pairs, host, batch = step(images=images)
        other, copied, _ = step(copy.deepcopy(host), images=images)
    gradient = torch.autograd.grad(other.images.sum(), [copied.pooled.weight, host.pooled.weight], allow_unused=True)
    assert gradient[0].abs().sum() > 0
    assert gradient[1] is None
    assert torch.equal(pairs.images, host.pooled(batch["views"][0][:, 0]))


HOST = Views()


def through_a_function(batch):
    return HOST.encoder(batch)


def test_a_callable_of_two_arguments_that_holds_a_module_is_told():
    host, tensors = Views(), torch.zeros(2)
    method = nn.Module.forward.__get__(host)
    holding = [
        lambda batch, outputs: host.encoder(batch),
        lambda batch, outputs: HOST.encoder(batch),
        lambda batch, outputs: through_a_function(batch),
        lambda batch, outputs, model=host: model.encoder(batch),
        functools.partial(lambda model, batch, outputs: model.encoder(batch), host),
        functools.partial(lambda batch, outputs, model: model.encoder(batch), model=host),
        functools.partial(lambda batch, outputs: host.encoder(batch)),
        method,
    ]
    for place in holding:
        assert closed_over(place)
        with pytest.warns(
            UserWarning, match=r"images: this callable holds the module .*three arguments, \(host, batch"
        ):
            FeaturePaths(images=place, reports="decoder")
    free = [
        lambda host, batch, outputs: HOST.encoder(batch),
        lambda batch, outputs: batch.HOST + tensors,
        operator.itemgetter("views"),
        lambda *args: args[0],
    ]
    for place in free:
        assert closed_over(place) is None


def test_itemgetter_and_star_arguments_are_called_with_batch_and_outputs():
    seen = []
    texts = ["a", "b", "c"]
    step(texts=lambda *args: seen.append(len(args)) or texts)
    step(texts=lambda batch, outputs, more=5: seen.append(more) or texts)
    assert seen == [2, 5]
