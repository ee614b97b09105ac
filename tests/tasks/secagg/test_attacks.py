"""What a hub, sites on its side, or an outsider try, with everything that they can see. Each fails here."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from tasks.errors import SecureSumError
from tasks.secagg import keys, lists, onesum, setup
from tasks.secagg.messages import Consent, Dealing
from tasks.secagg.onesum import Pledges
from tasks.secagg.opening import unmask
from tasks.secagg.shamir import combine, from_bytes, share, to_bytes, weights
from tests.tasks.secagg.people import World, some_values, stripped

LONG = 20_000


def looks_random(words):
    """Whether words cannot be told from uniform ones, byte by byte."""
    counts = np.bincount(words.view(np.uint8), minlength=256)
    return stats.chisquare(counts).pvalue > 1e-6


def a_played_sum(world, lost=(), length=LONG, **terms):
    values = some_values(world, length)
    sum_ = world.a_sum(length=length, **terms)
    masked = world.mask_all(sum_, values, [n for n in world.sites if n not in lost])
    survivors = world.survivors(sum_, masked)
    consents = world.agree(sum_, survivors)
    answers = [world.sites[n].unmask(sum_, survivors, consents) for n in masked]
    return values, sum_, masked, survivors, consents, answers


def parts(seeds):
    """Each way to strip some of the recovered masks, signs included."""
    signed = [(s, 1) for s in seeds.plus] + [(s, -1) for s in seeds.minus]
    for size in range(len(signed) + 1):
        for chosen in itertools.combinations(signed, size):
            yield keys.MaskSeeds(
                tuple(s for s, sign in chosen if sign > 0), tuple(s for s, sign in chosen if sign < 0)
            )


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("value", [0.0, -2.0])
def test_masked_vectors_cannot_be_told_from_uniform_words(bits, value):
    """Even of a constant vector: all bytes, pairs of words, and the vectors of two sites together."""
    world = World(bits=bits)
    sum_ = world.a_sum(length=LONG)
    raw = world.mask_all(sum_, {n: [value] * LONG for n in world.sites})
    kind = "<u8" if bits == 64 else "<u4"
    words = {n: np.frombuffer(r, dtype=kind) for n, r in raw.items()}
    for one in words.values():
        assert looks_random(one)
        assert looks_random(one[1:] - one[:-1])
    for a, b in itertools.combinations(words.values(), 2):
        assert looks_random(a - b)
        assert looks_random(a + b)


def test_the_hub_sees_nothing_but_the_whole_sum():
    """With every mask that an honest opening gives it, no vector and no smaller sum opens."""
    world = World(sites=4)
    values, sum_, masked, survivors, _, answers = a_played_sum(world, lost=["site-01"], length=2000)
    recovered = world.recover(sum_, survivors, answers)
    total = np.sum([values[n] for n in masked], axis=0)
    assert np.allclose(world.open(sum_, masked, recovered), total, atol=1e-12)

    for names in itertools.chain.from_iterable(itertools.combinations(masked, k) for k in (1, 2)):
        words = np.sum([np.frombuffer(masked[n], dtype="<u8") for n in names], axis=0, dtype=np.uint64)
        for seeds in parts(recovered.seeds):
            assert looks_random(stripped(words.tobytes(), seeds))


def test_an_outsider_sees_nothing_without_the_shares():
    """Whoever reads the store before the opening holds uniform words, even in the sum of all."""
    world = World()
    _, _, masked, *_ = a_played_sum(world)
    whole = np.sum([np.frombuffer(m, dtype="<u8") for m in masked.values()], axis=0, dtype=np.uint64)
    assert looks_random(whole)


def test_a_hub_with_one_site_less_than_the_threshold_opens_no_single_vector():
    """It knows all secrets of its sites, all that was sent, and the honest sites' shares of an honest opening."""
    world = World(sites=5, threshold=4)
    _, sum_, masked, survivors, _, answers = a_played_sum(world)
    ours, theirs = sorted(world.sites)[:3], sorted(world.sites)[3:]  # three on the hub's side, two honest
    recovered = world.recover(sum_, survivors, answers)
    for victim in theirs:
        known = onesum.mask_seeds(world.sites[victim].member, Pledges(), sum_)
        other = next(n for n in theirs if n != victim)
        public = onesum.public_of(world.announcements[other], 0)
        secret = keys.polynomial(world.sites[victim].seat.secret, world.terms, "pair", 0)[0]
        hidden = keys.pair_seed(to_bytes(secret), public, sum_.sha256, (victim, other))
        assert set(recovered.seeds.minus) & set(known.plus)  # its self mask is opened
        rest = keys.MaskSeeds(
            tuple(s for s in known.minus if s != hidden), tuple(s for s in known.plus if s != hidden)
        )
        assert looks_random(stripped(masked[victim], rest))  # all but the mask of the two honest sites
        # that mask's key is shared among all; the hub's sites hold one share too few
        xs = [world.terms.position(n) for n in ours]
        shares = [setup.member_share(world.sites[n].member, victim, 0, "pair") for n in ours]
        assert combine(shares, weights(xs)) != secret
        for guess in range(3):
            found = combine([*shares, guess], weights([*xs, world.terms.position(victim)]))
            assert keys.public_key(to_bytes(found)) != onesum.public_of(world.announcements[victim], 0)


def test_a_hub_in_the_middle_is_found():
    """It swaps a site's keys for its own; it cannot sign for that site."""
    world = World()
    victim, mallory = world.announcements["site-01"], keys.public_key(b"m" * 32).hex()
    forged = victim.model_copy(update={"sealing_key": mallory})
    announcements = world.announcements | {"site-01": forged}
    directory = world.directory.model_copy(
        update={"announced": world.directory.announced | {"site-01": forged.sha256}}
    )
    site = world.sites["site-00"]
    with pytest.raises(SecureSumError, match="not signed by that site"):
        setup.deal(site.seat, directory, announcements, site.verify)
    # nor does the site's own word from another run count
    other = World(seed=1, rounds=2)
    announcements["site-01"] = other.announcements["site-01"]
    with pytest.raises(SecureSumError, match="missing or altered"):
        setup.deal(site.seat, world.directory, announcements, site.verify)


def test_altered_or_misdirected_shares_do_not_open():
    """Another dealer's, another recipient's, another run's, or with one bit changed."""
    world, other = World(), World(seed=1)
    site, good = world.sites["site-00"], world.dealings["site-01"]
    to_me = good.sealed["site-00"]
    flipped = ("A" if to_me[0] != "A" else "B") + to_me[1:]
    for box in (
        good.sealed["site-02"],
        world.dealings["site-02"].sealed["site-00"],
        other.dealings["site-01"].sealed["site-00"],
        flipped,
    ):
        bad = Dealing(
            directory_sha256=good.directory_sha256, site="site-01", sealed=good.sealed | {"site-00": box}
        )
        cohort = world.cohort.model_copy(update={"dealt": world.cohort.dealt | {"site-01": bad.sha256}})
        dealings = world.dealings | {"site-01": bad}
        with pytest.raises(SecureSumError, match="'site-01' dealt to 'site-00' do not open"):
            setup.join(site.seat, cohort, world.announcements, dealings, site.verify)


def test_a_dealing_that_others_have_otherwise_is_refused():
    """All sites hold the same dealings, or the cohort's digest does not fit."""
    world = World()
    site, good = world.sites["site-00"], world.dealings["site-01"]
    other = good.model_copy(update={"sealed": good.sealed | {"site-02": good.sealed["site-03"]}})
    for dealings in (world.dealings | {"site-01": other}, {"site-02": world.dealings["site-02"]}):
        with pytest.raises(SecureSumError, match="'site-01' are missing or altered"):
            setup.join(site.seat, world.cohort, world.announcements, dealings, site.verify)


def test_other_cohorts_for_other_sites_give_garbage_and_no_consent():
    """A hub that leaves a site out for some sites gets masks that do not cancel."""
    world = World(sites=5)
    smaller = setup.cohort_of(
        world.terms, world.directory, [d for n, d in world.dealings.items() if n != "site-04"]
    )
    fooled = world.sites["site-00"]
    fooled.member = setup.join(fooled.seat, smaller, world.announcements, world.dealings, fooled.verify)
    with pytest.raises(SecureSumError, match="another run or cohort"):
        fooled.mask(world.a_sum(), [0.0] * 5, world.codec)
    their_sum = world.a_sum().model_copy(update={"cohort_sha256": smaller.sha256})
    masked = world.mask_all(world.a_sum(), some_values(world), sorted(world.sites)[1:])
    masked["site-00"] = fooled.mask(their_sum, [0.0] * 5, world.codec)
    survivors = world.survivors(world.a_sum(), masked)
    with pytest.raises(SecureSumError):
        fooled.consent(their_sum, survivors)


def test_a_wrong_share_is_found_named_and_left_out():
    """With more answers than the threshold the sum still opens, and the operator hears of the site."""
    world = World(sites=7)
    values, sum_, masked, survivors, _, answers = a_played_sum(world, length=5)
    for place in (0, 3, 6):
        bad = answers[place]
        lie = bad.model_copy(update={"shares": bad.shares | {"site-02": "11" * 32}})
        recovered = world.recover(sum_, survivors, [*answers[:place], *answers[place + 1 :], lie])
        assert recovered.wrong == {bad.site}
        total = np.sum(list(values.values()), axis=0)
        assert np.allclose(world.open(sum_, masked, recovered), total, atol=1e-12)


def test_wrong_shares_that_leave_too_few_right_ones_open_nothing():
    """A wrong secret would give a wrong sum; the owner's commitment tells it."""
    world = World(sites=4)
    _, sum_, _, survivors, _, answers = a_played_sum(world, length=5)
    lies = [a.model_copy(update={"shares": dict.fromkeys(a.shares, "22" * 32)}) for a in answers[:2]]
    with pytest.raises(SecureSumError, match="do not open the sum"):
        world.recover(sum_, survivors, lies + answers[2:])


def test_shares_of_another_sum_or_of_a_stranger_are_ignored():
    """A replayed answer names another list; one site answers once; a lost site has no say."""
    world = World(sites=4)
    *_, old = a_played_sum(world, length=5, round=1)
    _, sum_, _, survivors, _, answers = a_played_sum(world, lost=["site-03"], length=5, round=2)
    replayed = [o.model_copy(update={"survivors_sha256": survivors.sha256}) for o in old]
    with pytest.raises(SecureSumError, match="2 answers"):
        world.recover(sum_, survivors, [*old, answers[0], answers[0], answers[1]])
    with pytest.raises(SecureSumError, match="do not open"):
        world.recover(sum_, survivors, [answers[0], answers[1], replayed[2], replayed[3]])


def test_a_hub_that_shows_two_lists_gets_nothing():
    """One list says that a site survived, the other that it is lost: both together would open its vector."""
    world = World(sites=4)
    sum_ = world.a_sum()
    masked = world.mask_all(sum_, some_values(world))
    everybody = world.survivors(sum_, masked)
    without = world.survivors(sum_, {n: m for n, m in masked.items() if n != "site-00"})

    a = world.agree(sum_, everybody, ["site-00", "site-01"])
    b = world.agree(sum_, without, ["site-02", "site-03"])
    for name in ("site-02", "site-03"):
        with pytest.raises(SecureSumError, match="hub shows two"):
            world.sites[name].consent(sum_, everybody)
    for name, survivors in (("site-01", everybody), ("site-02", without)):
        for consents in (a, b, a + b, a * 4):
            with pytest.raises(SecureSumError, match="are needed"):
                world.sites[name].unmask(sum_, survivors, consents)


def test_two_lists_do_not_pass_with_fewer_traitors_than_stated():
    """The promise in numbers: 2 * threshold - sites sites on the hub's side are needed, whatever the split."""
    for n in range(3, 51):
        for threshold in range(n // 2 + 1, n + 1):
            least = min(
                m
                for m in range(n + 1)
                for left in range(n - m + 1)
                if left + m >= threshold and (n - m - left) + m >= threshold
            )
            assert least == 2 * threshold - n


def test_forged_consents_do_not_count():
    """A signature under another list, by another site, or of a site outside the list."""
    world = World(sites=4)
    sum_ = world.a_sum()
    masked = world.mask_all(sum_, some_values(world))
    survivors = world.survivors(sum_, {n: m for n, m in masked.items() if n != "site-03"})
    own = world.agree(sum_, survivors, ["site-00"])
    other = world.agree(sum_, world.survivors(sum_, masked), ["site-02"])[0]
    forged = [
        other,
        other.model_copy(update={"survivors_sha256": survivors.sha256}),
        own[0].model_copy(update={"site": "site-01"}),
        own[0].model_copy(update={"site": "site-03"}),
        own[0],
        _signed_by(world.sites["site-03"], survivors),  # truly signed, but it is not on the list
    ]
    assert lists.consenting(world.cohort, survivors, own + forged, world.verify) == {"site-00"}
    with pytest.raises(SecureSumError, match="1 survivors agreed"):
        world.sites["site-00"].unmask(sum_, survivors, own + forged)


def _signed_by(site, survivors):
    draft = Consent(survivors_sha256=survivors.sha256, site=site.name, signature="0" * 128)
    return draft.model_copy(update={"signature": site.sign(draft.canonical).hex()})


def test_shares_are_given_only_for_the_list_that_was_agreed_to():
    """Enough signatures of others do not replace a site's own word, kept on its disk."""
    world = World(sites=4)
    sum_ = world.a_sum()
    masked = world.mask_all(sum_, some_values(world))
    survivors = world.survivors(sum_, masked)
    consents = world.agree(sum_, survivors, ["site-00", "site-01", "site-02"])
    last = world.sites["site-03"]
    with pytest.raises(SecureSumError, match="has not agreed"):
        unmask(last.member, last.pledges, sum_, survivors, consents, last.verify)
    with pytest.raises(SecureSumError, match="has not agreed"):
        world.sites["site-00"].unmask(world.a_sum(attempt=2), survivors, consents)


def test_a_site_says_of_each_site_only_one_thing():
    """Self-mask shares of survivors, pair-key shares of the lost, never both: here is what left each site."""
    world = World(sites=4)
    _, _, _, survivors, _, answers = a_played_sum(world, lost=["site-02"], length=5)
    for answer in answers:
        member = world.sites[answer.site].member
        for owner, given in answer.shares.items():
            pair, own = (
                to_bytes(setup.member_share(member, owner, 0, kind)).hex() for kind in ("pair", "self")
            )
            assert (given == own) == (owner in survivors.masked)
            assert (given == pair) == (owner not in survivors.masked)


def test_a_late_vector_of_a_lost_site_stays_closed():
    """The hub says that a site is lost, opens its pair masks, and then its vector arrives after all."""
    world = World(sites=4)
    values = some_values(world, LONG)
    sum_ = world.a_sum(length=LONG)
    masked = world.mask_all(sum_, values)
    late = masked.pop("site-02")
    survivors = world.survivors(sum_, masked)
    consents = world.agree(sum_, survivors)
    answers = [world.sites[n].unmask(sum_, survivors, consents) for n in masked]
    recovered = world.recover(sum_, survivors, answers)
    own = onesum.mask_seeds(world.sites["site-02"].member, Pledges(), sum_)
    pairs = keys.MaskSeeds(own.minus, own.plus[1:])  # all that the hub now knows of its masks
    assert {*pairs.plus, *pairs.minus} <= {*recovered.seeds.plus, *recovered.seeds.minus}
    assert looks_random(stripped(late, pairs))
    # and nobody opens the rest: the same sites do not agree to a list that has it
    with pytest.raises(SecureSumError, match="hub shows two"):
        world.sites["site-00"].consent(sum_, world.survivors(sum_, masked | {"site-02": late}))
    # nor does the lost site help to open a list without it
    with pytest.raises(SecureSumError, match="does not hold the vector"):
        world.sites["site-02"].consent(sum_, survivors)


def test_a_sum_of_too_few_is_refused_by_every_site():
    """min_cohort binds the sites, not only the hub."""
    world = World(sites=5, threshold=3, min_cohort=4)
    sum_ = world.a_sum()
    masked = world.mask_all(sum_, some_values(world))
    survivors = world.survivors(sum_, masked)
    short = survivors.model_copy(update={"masked": dict(list(survivors.masked.items())[:3])})
    with pytest.raises(SecureSumError, match="a sum needs 4"):
        world.sites["site-00"].consent(sum_, short)
    stranger = survivors.model_copy(update={"masked": survivors.masked | {"mallory": "0" * 64}})
    with pytest.raises(SecureSumError, match="outside the cohort"):
        world.sites["site-00"].consent(sum_, stranger)


def test_one_mask_hides_one_vector():
    """Two vectors under one mask would show their difference: after a pledge there is no way to that mask."""
    world = World()
    site, sum_ = world.sites["site-00"], world.a_sum()
    site.mask(sum_, [0.1] * 5, world.codec)
    for again in (sum_, world.a_sum(parameters="9" * 64)):
        with pytest.raises(SecureSumError, match="sends the same bytes again"):
            site.mask(again, [0.2] * 5, world.codec)
    site.mask(world.a_sum(attempt=2), [0.2] * 5, world.codec)
    with pytest.raises(SecureSumError, match="sends the same bytes again"):
        site.mask(sum_, [0.1] * 5, world.codec)


def test_a_crash_before_the_pledge_is_kept_costs_nothing():
    """Nothing has left yet: the mask is unused, and a fresh vector may take it."""
    world = World()
    site, sum_ = world.sites["site-00"], world.a_sum()
    before = site.pledges
    lost_bytes = site.mask(sum_, [0.1] * 5, world.codec)
    site.pledges = before
    assert site.mask(sum_, [0.2] * 5, world.codec) != lost_bytes


def test_no_two_sums_differ_by_one_site():
    """The same vectors summed with and without a site would show it; each way to such a pair is closed."""
    world = World(sites=4, rounds=3)
    values = some_values(world)
    same = "7" * 64
    world.play(values, round=1, attempt=1, parameters=same)
    site = world.sites["site-00"]
    for sum_ in (
        world.a_sum(round=1, attempt=2, parameters=same),  # another attempt at an opened round
        world.a_sum(round=1, attempt=2),
        world.a_sum(round=2, parameters=same),  # another round that starts from the same model
    ):
        with pytest.raises(SecureSumError, match="difference of two such sums"):
            site.mask(sum_, values["site-00"], world.codec)
    assert np.allclose(world.play(values, round=2), np.sum(list(values.values()), axis=0))


def test_the_scores_of_a_round_are_a_sum_of_their_own():
    """Both sums of a round open, under keys of their own; a second one of either is refused."""
    world = World()
    values = some_values(world)
    for what in ("update", "scores"):
        world.play(values, round=1, what=what)
    for what in ("update", "scores"):
        with pytest.raises(SecureSumError):
            onesum.mask_seeds(
                world.sites["site-00"].member,
                world.sites["site-00"].pledges,
                world.a_sum(attempt=2, what=what),
            )


@pytest.mark.parametrize("field", ["sealing_key", "pair_keys"])
def test_a_site_with_a_key_that_fits_everybody_is_left_out_by_name(field):
    """A key of small order would stop every other site's setup, or every one of its sums."""
    world = World(rounds=1, attempts=1)
    bad = world.sites["site-02"]
    size = len(getattr(world.announcements["site-02"], field))
    draft = world.announcements["site-02"].model_copy(update={field: "00" * (size // 2)})
    signed = draft.model_copy(update={"signature": bad.sign(draft.canonical).hex()})

    announcements = world.announcements | {"site-02": signed}
    directory = setup.directory_of(world.terms, announcements.values(), world.verify)
    assert set(directory.announced) == set(world.sites) - {"site-02"}


def test_an_attempt_that_was_left_behind_stays_closed():
    """The hub gives up attempt 1, sums attempt 2, and then comes back with a list of attempt 1."""
    world = World(sites=4)
    first, second = world.a_sum(attempt=1), world.a_sum(attempt=2, parameters="1".zfill(64))
    old = world.survivors(first, world.mask_all(first, some_values(world)))
    world.mask_all(second, some_values(world))
    for site in world.sites.values():
        with pytest.raises(SecureSumError, match="an older sum stays closed"):
            site.consent(first, old)


def test_an_agreed_attempt_is_not_followed_by_another():
    """Agreed may mean opened; the site cannot know, so it takes no chance."""
    world = World(sites=4)
    sum_ = world.a_sum()
    world.agree(sum_, world.survivors(sum_, world.mask_all(sum_, some_values(world))), ["site-01"])
    with pytest.raises(SecureSumError, match="may have been opened"):
        world.sites["site-01"].mask(world.a_sum(attempt=2), [0.0] * 5, world.codec)
    world.sites["site-02"].mask(world.a_sum(attempt=2), [0.0] * 5, world.codec)


def test_the_opened_secrets_of_a_round_say_nothing_about_the_next():
    """The hub has both kinds of secrets of round 1 of some site each; none is a key of round 2."""
    world = World(sites=4, rounds=2, attempts=1)
    _, sum_, _, survivors, _, answers = a_played_sum(world, lost=["site-03"], length=5)
    opened = set()
    for owner in world.sites:
        xs = [world.terms.position(a.site) for a in answers]
        opened.add(combine([from_bytes(bytes.fromhex(a.shares[owner])) for a in answers], weights(xs)))
    later = {
        keys.polynomial(s.seat.secret, world.terms, kind, 1)[0]
        for s in world.sites.values()
        for kind in ("pair", "self")
    }
    assert len(opened) == 4
    assert len(later) == 8
    assert not opened & later
    second = world.a_sum(round=2)
    seeds = {
        s
        for w in world.sites.values()
        for part in onesum.mask_seeds(w.member, w.pledges, second)
        for s in part
    }
    recovered = world.recover(sum_, survivors, answers).seeds
    assert not seeds & {*recovered.plus, *recovered.minus}


def test_a_key_of_small_order_is_refused():
    """It would make the agreed key known to everybody."""
    with pytest.raises(SecureSumError, match="small order"):
        keys.agree(b"k" * 32, bytes(32))


def test_shares_of_a_site_differ_by_peer_and_by_sum():
    """The x-th site's share is the polynomial's value there, and no two secrets share a polynomial."""
    world = World(sites=4, rounds=2)
    secret = world.sites["site-00"].seat.secret
    polynomials = [
        keys.polynomial(secret, world.terms, kind, n) for kind in ("pair", "self") for n in range(4)
    ]
    coefficients = [c for p in polynomials for c in p]
    assert len(set(coefficients)) == len(coefficients) == 8 * world.terms.threshold
    member = world.sites["site-02"].member
    assert setup.member_share(member, "site-00", 3, "self") == share(polynomials[7], 3)
