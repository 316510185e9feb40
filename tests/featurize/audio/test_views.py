"""Views: a minute of the track, as fast and loud as is drawn, with or without another track beneath."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from student_clap.featurize.audio.decode import Samples, through_int16
from student_clap.featurize.audio.views import BAND_DB, BENEATH_DB, GAIN_DB, LENGTH_S, SPEED, Change, Excerpt, view_of

RATE = 48_000
MINUTE = 60 * RATE
STEP = 1 / 32767
# Of view 1 of row 3: gain and what is beneath in dB; begin, speed and bands of the excerpt, and of the one beneath.
PINNED = (
    -0.5285446931, -1.0558413503,
    0.8368213934, 0.8932301637, 0.0424656716, 1.5459133359, 1.5846361941, -4.4717308962, 4.696186816, 3.648926886,
    0.3939960187, 0.9910564904, 1.028101846, 5.5157858932, -3.5699508552, -3.9716270016, -2.1146194078, 5.1981570611,
)  # fmt: skip
BANDS_HZ = (50.0, 158.7, 503.6, 1598.4, 5072.7, 16_000.0)  # six, from 50 Hz to 16 kHz, each 3.17 times the one before


FLAT = (0.0,) * 6


def change(
    speed: float = 1.0,
    bands: tuple[float, ...] = FLAT,
    gain: float = 0.0,
    begin: float = 0.0,
    beneath: Excerpt | None = None,
    beneath_db: float = 0.0,
) -> Change:
    """A change that does nothing but what is asked for."""
    excerpt = Excerpt(begin=begin, speed=speed, band_db=np.array(bands))
    return Change(excerpt, beneath or Excerpt(0.0, 1.0, np.array(FLAT)), beneath_db, gain)


def noise(n_samples: int, seed: int = 0, level: float = 0.1) -> Samples:
    """White noise as `decode` gives it."""
    return through_int16((level * np.random.default_rng(seed).standard_normal(n_samples)).astype(np.float32))


def sine(hz: float, duration_s: float, level: float = 0.1) -> Samples:
    """A tone as `decode` gives it."""
    t = np.arange(round(duration_s * RATE)) / RATE
    return through_int16((level * np.sin(2 * np.pi * hz * t)).astype(np.float32))


def level_db(samples: Samples) -> float:
    """The level of the middle of it, without what the ends may have of the change."""
    middle = samples[len(samples) // 4 : 3 * len(samples) // 4].astype(np.float64)
    return float(10 * np.log10(np.mean(np.square(middle))))


def loudest_hz(samples: Samples) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum)) * RATE / len(samples)


def test_a_view_is_a_function_of_the_samples_its_number_and_the_row() -> None:
    samples = noise(70 * RATE)
    before = samples.copy()
    views = {at: view_of(samples, Change.drawn(*at)) for at in ((1, 0), (2, 0), (1, 1), (2, 1))}
    np.testing.assert_array_equal(samples, before)
    for at, view in views.items():
        np.testing.assert_array_equal(view_of(samples.copy(), Change.drawn(*at)), view)
        others = [other for number, other in views.items() if number != at]
        assert not any(len(view) == len(other) and np.allclose(view, other) for other in others)
    other = view_of(noise(70 * RATE, seed=1), Change.drawn(1, 0))
    assert len(other) == len(views[1, 0])
    assert not np.allclose(other, views[1, 0])


def test_what_is_drawn_lies_within_its_bounds_and_fills_them() -> None:
    drawn = [Change.drawn(view, row) for view in (1, 2, 16) for row in range(1000)]
    assert (SPEED, BAND_DB, GAIN_DB, BENEATH_DB, LENGTH_S) == (1.15, 8.0, 6.0, 12.0, 60.0)
    columns = [np.array([one.gain_db for one in drawn]) / GAIN_DB]
    columns += [2 * np.array([one.beneath_db for one in drawn]) / BENEATH_DB + 1]
    for name in ("excerpt", "beneath"):
        excerpts = [getattr(one, name) for one in drawn]
        bands = np.array([excerpt.band_db for excerpt in excerpts])
        assert bands.shape == (3000, 6)
        columns += [2 * np.array([excerpt.begin for excerpt in excerpts]) - 1]
        columns += [np.log2([excerpt.speed for excerpt in excerpts]) / np.log2(SPEED), *(bands / BAND_DB).T]
    for column in columns:
        assert np.abs(column).max() <= 1
        # As often anywhere: of 3000 numbers a tenth of the range has 300.
        assert all(200 < n < 400 for n in np.histogram(column, 10, (-1, 1))[0])
    assert len(columns) == 18
    assert len(np.unique(np.column_stack(columns), axis=0)) == 3000
    # None of the numbers tells anything about another one.
    assert np.abs(np.corrcoef(columns) - np.eye(18)).max() < 0.1


def test_a_view_stays_the_same_in_later_versions() -> None:
    """A store's strips and vectors may be made in different runs, on different machines."""
    drawn = Change.drawn(1, 3)
    told = [drawn.gain_db, drawn.beneath_db]
    for excerpt in (drawn.excerpt, drawn.beneath):
        told += [excerpt.begin, excerpt.speed, *excerpt.band_db]
    np.testing.assert_allclose(told, PINNED, atol=1e-9)


@pytest.mark.parametrize("speed", [1 / SPEED, 1.07, SPEED])
@pytest.mark.parametrize("n_samples", [1, 2, 100, 480_000, MINUTE - 1, MINUTE + 1, round(MINUTE * SPEED) + 1])
def test_a_view_is_a_minute_at_most_and_of_a_short_track_all_of_it(n_samples: int, speed: float) -> None:
    view = view_of(noise(n_samples), change(speed=speed, begin=0.7))
    assert view.dtype == np.float32
    assert 1 <= len(view) <= MINUTE
    assert abs(len(view) - min(MINUTE, n_samples / speed)) <= 1
    assert len(view) <= n_samples * SPEED + 1


@given(n_samples=st.integers(1, 3000), view=st.integers(1, 16), row=st.integers(0, 10**7))
def test_even_the_shortest_track_has_a_view(n_samples: int, view: int, row: int) -> None:
    found = view_of(noise(n_samples, level=0.3), Change.drawn(view, row))
    assert 1 <= len(found) <= n_samples * SPEED + 1
    assert np.isfinite(found).all()


@pytest.mark.parametrize("level", [0.001, 0.03, 3.0])
def test_values_are_sixteen_bit_steps_also_where_they_are_clipped(level: float) -> None:
    view = view_of(noise(RATE, level=level), change(bands=(BAND_DB,) * 6, gain=GAIN_DB))
    steps = np.rint(view.astype(np.float64) * 32767)
    np.testing.assert_array_equal(view, steps.astype(np.float32) / np.float32(32767))
    assert np.abs(view).max() <= 1
    assert (np.abs(view) == 1).any() == (level == 3.0)


@pytest.mark.parametrize(("begin", "at"), [(0.0, 0), (0.25, 5 * RATE), (0.5, 10 * RATE), (1 - 1e-9, 20 * RATE)])
def test_the_minute_is_from_where_the_change_says(begin: float, at: int) -> None:
    samples = noise(80 * RATE)
    view = view_of(samples, change(begin=begin))
    np.testing.assert_allclose(view, samples[at : at + MINUTE], atol=1.5 * STEP)


@pytest.mark.parametrize("speed", [1 / SPEED, 0.97, 1.0, 1.1, SPEED])
@pytest.mark.parametrize("hz", [100.0, 1000.0, 9000.0])
def test_a_tone_gets_higher_as_it_gets_faster(hz: float, speed: float) -> None:
    assert loudest_hz(view_of(sine(hz, 12.0), change(speed=speed))) == pytest.approx(hz * speed, abs=0.1)


def test_a_view_of_another_minute_is_as_fast() -> None:
    view = view_of(np.concatenate([sine(300.0, 80.0), sine(700.0, 80.0)]), change(speed=1.1, begin=1 - 1e-9))
    assert len(view) == MINUTE
    assert loudest_hz(view) == pytest.approx(770.0, abs=0.1)


@pytest.mark.parametrize("band", range(6))
@pytest.mark.parametrize("gain_db", [-BAND_DB, 3.0, BAND_DB])
def test_a_band_s_gain_is_reached_at_its_frequency(band: int, gain_db: float) -> None:
    tone = sine(BANDS_HZ[band], 4.0)
    bands = tuple(gain_db if at == band else -gain_db / 2 for at in range(6))
    assert level_db(view_of(tone, change(bands=bands))) - level_db(tone) == pytest.approx(gain_db, abs=0.5)


def test_between_two_bands_the_gain_lies_between_theirs() -> None:
    for low, high in itertools.pairwise(BANDS_HZ):
        tone = sine((low * high) ** 0.5, 4.0)
        bands = tuple(6.0 if at == BANDS_HZ.index(low) else 2.0 for at in range(6))
        assert level_db(view_of(tone, change(bands=bands))) - level_db(tone) == pytest.approx(4.0, abs=0.5)


@pytest.mark.parametrize("gain_db", [-GAIN_DB, 0.0, GAIN_DB])
def test_the_gain_of_the_whole_comes_on_top_of_the_bands(gain_db: float) -> None:
    samples = noise(4 * RATE, level=0.05)
    view = view_of(samples, change(bands=(2.0,) * 6, gain=gain_db))
    assert level_db(view) - level_db(samples) == pytest.approx(gain_db + 2.0, abs=0.05)


def test_a_band_is_that_of_the_view_not_of_the_track() -> None:
    """The bands are changed after the speed."""
    tone = sine(BANDS_HZ[3] / 1.1, 4.0)
    bands = (-8.0, -8.0, -8.0, 8.0, -8.0, -8.0)
    view = view_of(tone, change(speed=1.1, bands=bands))
    assert level_db(view) - level_db(tone) == pytest.approx(8.0, abs=0.5)


def test_silence_stays_silent() -> None:
    assert not view_of(np.zeros(5 * RATE, np.float32), Change.drawn(3, 7)).any()


# --- another track beneath


@pytest.mark.parametrize("beneath_db", [0.0, -6.0, -BENEATH_DB])
def test_what_is_beneath_is_so_much_softer_whatever_its_own_level(beneath_db: float) -> None:
    for level in (0.003, 0.2):
        mixed = view_of(sine(700.0, 5.0), change(beneath_db=beneath_db), sine(3000.0, 5.0, level=level))
        spectrum = np.abs(np.fft.rfft(mixed * np.hanning(len(mixed))))
        above, beneath = spectrum[700 * 5], spectrum[3000 * 5]
        assert 20 * np.log10(beneath / above) == pytest.approx(beneath_db, abs=0.1)


def test_what_is_beneath_has_an_excerpt_of_its_own() -> None:
    """A minute of another part of it, at another speed, with other bands."""
    bands = tuple(BAND_DB if at == 2 else -BAND_DB for at in range(6))
    other = np.concatenate([sine(200.0, 80.0), sine(BANDS_HZ[2] / 1.1, 80.0)])
    excerpt = Excerpt(begin=1 - 1e-9, speed=1.1, band_db=np.array(bands))
    mixed = view_of(sine(9000.0, 60.0), change(speed=0.9, beneath=excerpt), other)
    assert len(mixed) == MINUTE
    spectrum = np.abs(np.fft.rfft(mixed * np.hanning(MINUTE)))

    def share(hz: float) -> float:
        return float(spectrum[round(60 * hz) - 5 : round(60 * hz) + 6].max() / spectrum.max())

    assert share(9000.0 * 0.9) > 0.5
    assert share(BANDS_HZ[2]) > 0.5
    assert share(200.0 * 1.1) < 0.01


def test_the_view_is_as_long_as_its_own_track() -> None:
    for seconds, of_other in ((5.0, 90.0), (20.0, 5.0), (90.0, 5.0)):
        samples, other = noise(round(seconds * RATE)), sine(3000.0, of_other)
        mixed, plain = view_of(samples, change(speed=1.1), other), view_of(samples, change(speed=1.1))
        assert len(mixed) == len(plain)
        end = min(len(plain), len(other))
        assert not np.allclose(mixed[:end], plain[:end], atol=0.01)
        # A shorter one is over at some time.
        np.testing.assert_allclose(mixed[end:], plain[end:], atol=1.5 * STEP)


def test_the_gain_of_the_whole_is_that_of_both() -> None:
    samples, other = noise(4 * RATE, level=0.05), noise(4 * RATE, seed=1, level=0.2)
    softer, louder = (view_of(samples, change(gain=gain_db), other) for gain_db in (-GAIN_DB, GAIN_DB))
    assert level_db(louder) - level_db(softer) == pytest.approx(2 * GAIN_DB, abs=0.05)
    # Two that know nothing of one another, each as loud, are 3 dB louder together.
    assert level_db(louder) - level_db(samples) == pytest.approx(GAIN_DB + 3.01, abs=0.2)


def test_silence_above_or_beneath_is_no_trouble() -> None:
    silence, samples = np.zeros(5 * RATE, np.float32), noise(5 * RATE)
    drawn = Change.drawn(3, 7)
    np.testing.assert_array_equal(view_of(samples, drawn, silence), view_of(samples, drawn))
    assert not view_of(silence, drawn, samples).any()
    assert not view_of(silence, drawn, silence).any()


def test_a_mixture_is_clipped_and_in_steps_and_leaves_what_it_is_made_of() -> None:
    samples, other = noise(2 * RATE, level=0.5), noise(3 * RATE, seed=1, level=0.01)
    before = samples.copy(), other.copy()
    mixed = view_of(samples, change(gain=GAIN_DB), other)
    np.testing.assert_array_equal(samples, before[0])
    np.testing.assert_array_equal(other, before[1])
    np.testing.assert_array_equal(
        mixed, np.rint(mixed.astype(np.float64) * 32767).astype(np.float32) / np.float32(32767)
    )
    assert np.abs(mixed).max() == 1
    np.testing.assert_array_equal(view_of(samples, change(gain=GAIN_DB), other), mixed)


def test_a_recipe_s_cap_ends_a_view_and_does_not_change_it() -> None:
    samples = noise(90 * RATE)
    slowed = change(speed=1 / SPEED, begin=0.5)
    whole, capped = view_of(samples, slowed), view_of(samples, slowed, max_samples=30 * RATE)
    assert len(capped) == 30 * RATE
    np.testing.assert_array_equal(capped, whole[: 30 * RATE])
