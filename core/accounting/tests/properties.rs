#![allow(clippy::unwrap_used)] // a test that fails says why
//! Properties that any accountant must have, and its behaviour at the edges.

use accounting::{
    AccountingError, Event, LATTICE_ETA, LATTICE_TAIL, Loss, Pld, calibrate, epsilon_of, epsilon_tight,
    epsilon_zero_record_of, gaussian, information, paper, randomised_response, rdp,
};
use asymflow_accounting as accounting;
use proptest::prelude::*;

#[test]
fn large_losses_stay_numbers() {
    assert_eq!(gaussian::epsilon(f64::INFINITY, 1e-5), f64::INFINITY);
    for mu in [1e-12, 1e-7, 9.9e-6, 1e-5, 1e-2, 1.0, 40.0, 1e3, 1e6, 1e150, 1e200] {
        for delta in [1e-300, 1e-30, 1e-12, 1e-5, 0.4, 1.0] {
            let epsilon = gaussian::epsilon(mu, delta);
            assert!(epsilon >= 0.0, "ε = {epsilon} for μ = {mu}, δ = {delta}");
            assert!(epsilon == f64::INFINITY || gaussian::delta(epsilon, mu) <= delta);
            assert!(epsilon.is_finite() || mu > 1e150, "ε is infinite for μ = {mu}, δ = {delta}");
        }
        for epsilon in [0.0, 1e-9, 1.0, 1e3, 1e5, 1e300, f64::MAX] {
            let delta = gaussian::delta(epsilon, mu);
            assert!((0.0..=1.0).contains(&delta), "δ = {delta} for μ = {mu}, ε = {epsilon}");
        }
    }
    let sigma = gaussian::sigma(1000.0, 1e-10, 1.0).unwrap();
    assert!((gaussian::epsilon(1.0 / sigma, 1e-10) / 1000.0 - 1.0).abs() < 1e-6);
}

/// The bound for tiny μ and the difference of Mills ratios meet where one takes over from the other.
#[test]
fn delta_is_continuous_in_mu() {
    for t in [-0.5, 0.0, 1.0, 5.0, 20.0] {
        let at = |mu: f64| gaussian::delta((t * mu + mu * mu / 2.0).max(0.0), mu);
        let (below, above) = (at(1e-5 * (1.0 - 1e-9)), at(1e-5));
        assert!((below / above - 1.0).abs() < 1e-6, "t = {t}: {below:e} {above:e}");
    }
}

#[test]
fn nonsense_promises_nothing() {
    for (epsilon, mu) in [(-1.0, 1.0), (1.0, -1.0), (f64::NAN, 1.0), (1.0, f64::NAN), (1.0, f64::INFINITY)] {
        assert_eq!(gaussian::delta(epsilon, mu), 1.0);
    }
    for (mu, delta) in [(1.0, 0.0), (-1.0, 0.1), (f64::NAN, 0.1), (1.0, f64::NAN), (1.0, -0.1)] {
        assert_eq!(gaussian::epsilon(mu, delta), f64::INFINITY);
    }
    for (epsilon, delta, sensitivity) in [(-1.0, 0.1, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 1.0), (1.0, 0.1, 0.0)]
    {
        assert!(gaussian::sigma(epsilon, delta, sensitivity).is_err());
    }
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(epsilon_of(&[Event::gaussian(bad)], 1e-5).is_err());
        assert_eq!(gaussian::compose([(1.0, 1.0), (bad, 1.0)]), f64::INFINITY, "{bad}");
    }
    assert!(epsilon_of(&[Event::RandomisedResponse { epsilon: f64::NAN }], 1e-5).is_err());
    assert!(randomised_response::epsilon(1, 1.0).is_err() && randomised_response::epsilon(10, 0.05).is_err());
    assert_eq!(randomised_response::epsilon(10, 1.0).unwrap(), f64::INFINITY);
}

#[test]
fn an_unknown_event_is_an_error_not_free() {
    let known = r#"{"kind":"gaussian","noise_multiplier":1.5,"count":2}"#;
    assert_eq!(
        serde_json::from_str::<Event>(known).unwrap(),
        Event::Gaussian { noise_multiplier: 1.5, count: 2 }
    );
    for unknown in [
        r#"{"kind":"laplace","noise_multiplier":1.5}"#,
        r#"{"kind":"gaussian","noise_multiplier":1.5}"#,
        r#"{"kind":"gaussian","noise_multiplier":1.5,"count":2,"rate":0.1}"#,
        r#"{"kind":"gaussian","noise_multiplier":1.5,"count":-1}"#,
        r#"{"kind":"lattice-gaussian","noise_multiplier":1.5,"count":2}"#,
        r#"{"kind":"pure","epsilon":1.5,"count":2}"#,
        r#"{"kind":"Pure","epsilon":1.5}"#,
    ] {
        assert!(serde_json::from_str::<Event>(unknown).is_err(), "{unknown}");
    }
}

#[test]
fn randomised_responses_add_to_gaussian_releases() {
    let (noise, label) = (Event::gaussian(2.0), Event::RandomisedResponse { epsilon: 1.5 });
    let alone = epsilon_of(&[noise], 1e-5).unwrap();
    let both = epsilon_of(&[noise, label, label], 1e-5).unwrap();
    assert!((both - alone - 3.0).abs() < 1e-12 && both >= alone + 3.0);
    assert_eq!(epsilon_of(&[], 1e-5).unwrap(), 0.0);
    // Half the sensitivity is twice the noise multiplier.
    assert_eq!(
        epsilon_zero_record_of(&[noise], 1e-5).unwrap().to_bits(),
        epsilon_of(&[Event::gaussian(4.0)], 1e-5).unwrap().to_bits()
    );
}

/// The published ε = 1.4 is about 3.6 (CIFAR) and 5.1 (ImageNet) against a zero record.
#[test]
fn the_papers_formula_is_reproduced_and_exceeded_by_the_honest_one() {
    for (rate, honest) in [(64.0 / 50_000.0, 3.6), (256.0 / 1_281_167.0, 5.1)] {
        let sigma = paper::sigma_not_a_guarantee(1.4, 1.0, rate, 1e-5);
        assert!((paper::epsilon_not_a_guarantee(1.0, sigma, rate, 1e-5) - 1.4).abs() < 1e-9);
        let found = gaussian::epsilon(1.0 / sigma, 1e-5);
        assert!((found - honest).abs() < 0.1, "{found}");
    }
    assert!(paper::epsilon_not_a_guarantee(1.0, 1e-3, 0.1, 1e-5).is_finite());
}

/// The figures of the design: half a bit at ε = 8, 50.8 % and 56.5 % of signs.
#[test]
fn a_strong_guarantee_carries_little() {
    let sigma = gaussian::sigma(8.0, 1e-5, 2.0).unwrap();
    for k in [16, 1024, 1 << 20] {
        let bits = information::information_bound_bits(k, 1.0, sigma);
        assert!((0.4..0.6).contains(&bits), "{bits}");
    }
    assert!((information::sign_agreement(1024, 1.0, sigma) - 0.508).abs() < 5e-4);
    assert!((information::sign_agreement(16, 1.0, sigma) - 0.565).abs() < 2e-3);
    assert_eq!(information::information_bound_bits(0, 1.0, 1.0), 0.0);
}

/// σ calibrated for a budget is accepted by that budget, whatever the number of releases and rounding.
#[test]
fn a_calibrated_release_fits_its_budget() {
    for epsilon in [0.1, 1.0, 3.0, 8.0, 50.0] {
        for steps in [1u64, 7, 1000, 100_000] {
            let sigma = gaussian::sigma(epsilon, 1e-5, 2.0 * (steps as f64).sqrt()).unwrap();
            let event = Event::gaussian(sigma / 2.0);
            let mut loss = accounting::Loss::default();
            (0..steps).for_each(|_| loss = loss.and(&event).unwrap());
            assert!(loss.within(epsilon, 1e-5), "ε = {epsilon}, {steps} steps: {}", loss.epsilon(1e-5));
            assert!(!loss.and(&event).unwrap().within(epsilon, 1e-5) || steps > 1000);
        }
    }
}

/// What ledgers hold must be read for as long as there are ledgers.
#[test]
fn events_are_written_as_they_always_were() {
    let events = [
        (Event::gaussian(1.5), r#"{"kind":"gaussian","noise_multiplier":1.5,"count":1}"#),
        (Event::RandomisedResponse { epsilon: 0.5 }, r#"{"kind":"randomised-response","epsilon":0.5}"#),
        (Event::Pure { epsilon: 0.5 }, r#"{"kind":"pure","epsilon":0.5}"#),
        (
            Event::LatticeGaussian { noise_multiplier: 1.5, numbers: 16, count: 2, clipped: false },
            r#"{"kind":"lattice-gaussian","noise_multiplier":1.5,"numbers":16,"count":2}"#,
        ),
        (
            Event::LatticeGaussian { noise_multiplier: 1.5, numbers: 16, count: 2, clipped: true },
            r#"{"kind":"lattice-gaussian","noise_multiplier":1.5,"numbers":16,"count":2,"clipped":true}"#,
        ),
    ];
    for (event, text) in events {
        assert_eq!(serde_json::to_string(&event).unwrap(), text);
        assert_eq!(serde_json::from_str::<Event>(text).unwrap(), event);
    }
}

/// `δ'(ε + 2Z) ≤ e^Z δ(ε) + d(1 + e^{Z+ε})`: all sides of the price of a sampler that is not exact.
#[test]
fn a_lattice_gaussian_costs_its_distortion() {
    let (m, delta) = (1.5, 1e-5);
    // A few numbers cost the sum of their ratios, many its root.
    for (numbers, count) in [(1u64 << 4, 1u64 << 2), (1 << 20, 1 << 10)] {
        let lattice = Event::LatticeGaussian { noise_multiplier: m * 40.0, numbers, count, clipped: true };
        let n = numbers as f64 * count as f64;
        let root = LATTICE_ETA * (2.0 * 200.0 * 2f64.ln() * n).sqrt();
        let z = root.min(n * LATTICE_ETA);
        let ideal = Event::Gaussian { noise_multiplier: m * 40.0, count };
        let without = epsilon_of(&[ideal], delta).unwrap();
        let kept = (delta - n * LATTICE_TAIL * (1.0 + (z + without).exp())) * (-z).exp();
        let exact = epsilon_of(&[ideal], kept).unwrap() + 2.0 * z;
        let found = epsilon_of(&[lattice], delta).unwrap();
        assert!(found > without && (found / exact - 1.0).abs() < 1e-9, "{found} {exact}");
        let zero = epsilon_zero_record_of(&[lattice], delta).unwrap();
        let half = epsilon_zero_record_of(&[ideal], delta).unwrap();
        assert!(zero > half && zero < half * (1.0 + 1e-3), "{zero} {half}");
        let loss = Loss::default().and(&lattice).unwrap();
        assert!(loss.within(found * (1.0 + 1e-9), delta) && !loss.within(found * (1.0 - 1e-9), delta));
        // An ε at which the sampler's tail alone is more than δ is implied by a smaller one.
        assert!(loss.within(1e3, delta) && loss.within(f64::INFINITY, delta));
    }
    let lattice =
        |count, numbers| Event::LatticeGaussian { noise_multiplier: m, numbers, count, clipped: true };
    assert_eq!(epsilon_of(&[lattice(0, 1 << 20)], delta).unwrap(), 0.0);
    assert_eq!(epsilon_of(&[lattice(u64::MAX, u64::MAX)], delta).unwrap(), f64::INFINITY);
}

/// An ε that the sampler's tail cannot keep is given the least noise that it can, and stays within a smaller one.
#[test]
fn an_epsilon_out_of_the_samplers_reach_gets_the_noise_it_can_have() {
    for (numbers, count, delta) in [(10, 1, 1e-5), (768, 1, 1e-5), (1 << 20, 5000, 1e-5), (1000, 10, 0.1)] {
        let base = Loss::default().and(&Event::lattice_sampling(numbers, count)).unwrap();
        let [m, same] = [1e3, 1e8].map(|epsilon| calibrate(base, count, epsilon, delta).unwrap());
        assert!((m / same - 1.0).abs() < 1e-8, "{m} {same}");
        let event = Event::LatticeGaussian { noise_multiplier: m, numbers, count, clipped: true };
        let loss = Loss::default().and(&event).unwrap();
        let epsilon = loss.epsilon(delta);
        println!("{count} times {numbers} numbers at δ = {delta}: up to ε = {epsilon:.1}");
        assert!((10.0..60.0).contains(&epsilon) && loss.within(1e3, delta), "{epsilon}");
        let less = Event::LatticeGaussian { noise_multiplier: 0.99 * m, numbers, count, clipped: true };
        assert_eq!(epsilon_of(&[less], delta).unwrap(), f64::INFINITY);
    }
}

/// A million numbers of noise in ten thousand releases: what the sampler costs is nothing beside the noise.
#[test]
fn what_millions_of_sampled_numbers_cost_does_not_matter() {
    let (numbers, count, delta) = (1_000_000, 10_000, 1e-5);
    let base = Loss::default().and(&Event::lattice_sampling(numbers, count)).unwrap();
    let m = calibrate(base, count, 8.0, delta).unwrap();
    let ideal = calibrate(Loss::default(), count, 8.0, delta).unwrap();
    assert!(m > ideal && m < 1.001 * ideal, "{m} {ideal}");
    let together = Event::LatticeGaussian { noise_multiplier: m, numbers, count, clipped: true };
    assert!(Loss::default().and(&together).unwrap().within(8.0, delta));
}

#[test]
fn a_budget_without_room_is_refused_with_its_numbers() {
    let spent =
        [Event::gaussian(1.0)].iter().try_fold(Loss::default(), |loss, event| loss.and(event)).unwrap();
    let error = calibrate(spent, 1, 3.0, 1e-5).unwrap_err();
    assert_eq!(error, AccountingError::Exhausted { spent: spent.epsilon(1e-5), epsilon: 3.0, delta: 1e-5 });
    assert!(error.to_string().contains("ε = 4.37") && error.to_string().contains("within ε = 3"), "{error}");
    // Full to the brim: not above its budget, and yet without room.
    let pure = Loss::default().and(&Event::Pure { epsilon: 3.0 }).unwrap();
    assert!(pure.within(3.0, 1e-5));
    let all = calibrate(pure, 1, 3.0, 1e-5);
    assert!(all.is_ok_and(|m| m > 1e4), "δ alone pays for a little: {all:?}");
    let brim = calibrate(spent, 1, spent.epsilon(1e-5), 1e-5);
    assert!(
        matches!(brim, Err(AccountingError::Exhausted { .. })) || brim.is_ok_and(|m| m > 1e4),
        "{brim:?}"
    );
    for (count, epsilon, delta) in
        [(0, 1.0, 1e-5), (1, -1.0, 1e-5), (1, f64::NAN, 1e-5), (1, 1.0, 0.0), (1, 1.0, 1.0)]
    {
        let refused = calibrate(Loss::default(), count, epsilon, delta);
        assert!(matches!(refused, Err(AccountingError::Parameter { .. })), "{count} {epsilon} {delta}");
    }
}

/// n-fold randomised response has a closed form (Kairouz, Oh & Viswanath 2015).
#[test]
fn pure_releases_compose_to_their_closed_form() {
    for (one, n) in [(0.1, 50), (0.5, 8), (2.0, 3)] {
        let exact = |epsilon: f64| {
            let mut binomial = 1.0;
            let terms = (0..=n).map(|k| {
                let (k, rest) = (f64::from(k), f64::from(n - k));
                let term = binomial * ((rest * one).exp() - (epsilon + k * one).exp()).max(0.0);
                binomial *= rest / (k + 1.0);
                term
            });
            terms.sum::<f64>() / (1.0 + one.exp()).powi(n)
        };
        let mut pld = Pld::new(Pld::INTERVAL).unwrap();
        pld.pure(one, n as u64).unwrap();
        for delta in [1e-2, 1e-5, 1e-12] {
            let found = pld.epsilon(delta);
            assert!(exact(found) <= delta, "{n} times {one} at {delta}: {found} is too low");
            assert!(exact(found * (1.0 - 1e-3)) > delta, "{n} times {one} at {delta}: {found} is loose");
            assert!(pld.epsilon(0.0) >= one * f64::from(n) && pld.epsilon(0.0) < one * f64::from(n) + 0.01);
        }
    }
}

/// One Gaussian release and one randomised response: a mixture of two Gaussian δ.
#[test]
fn a_mixture_is_bounded_from_both_sides() {
    for (m, pure) in [(1.0, 0.5), (3.0, 0.25), (0.7, 1.0)] {
        let events = [Event::gaussian(m), Event::RandomisedResponse { epsilon: pure }];
        let delta = 1e-5;
        let (tight, added) = (epsilon_tight(&events, delta).unwrap(), epsilon_of(&events, delta).unwrap());
        let keep = 1.0 / (1.0 + (-pure).exp());
        let exact = |e: f64| {
            keep * gaussian::delta(e - pure, 1.0 / m) + (1.0 - keep) * gaussian::delta(e + pure, 1.0 / m)
        };
        assert!(exact(tight) <= delta * (1.0 + 1e-9), "{m} {pure}: {tight} is too low");
        assert!(exact(tight * (1.0 - 1e-4)) > delta, "{m} {pure}: {tight} is loose");
        assert!(tight < added, "{tight} {added}");
    }
    assert_eq!(epsilon_tight(&[], 1e-5).unwrap(), 0.0);
    let gaussian = [Event::gaussian(2.0), Event::gaussian(3.0)];
    assert_eq!(epsilon_tight(&gaussian, 1e-5), epsilon_of(&gaussian, 1e-5), "alone they compose exactly");
    assert!(epsilon_tight(&[Event::gaussian(-1.0)], 1e-5).is_err());
    // The distortion of a lattice is charged in both bounds.
    let lattice = |numbers| {
        let events = [
            Event::LatticeGaussian { noise_multiplier: 1.0, numbers, count: 1, clipped: true },
            Event::Pure { epsilon: 0.5 },
        ];
        epsilon_tight(&events, 1e-5).unwrap()
    };
    let z = LATTICE_ETA * (2.0 * 200.0 * 2f64.ln() * (1u64 << 30) as f64).sqrt();
    assert!(lattice(1 << 30) > lattice(1) + 2.0 * z * (1.0 - 1e-4));
}

/// One sampled release, both directions by their definition.
#[test]
fn one_sampled_release_has_its_exact_delta() {
    let tail = |x: f64| 0.5 * libm::erfc(x / 2f64.sqrt());
    for (m, q) in [(1.0, 0.01), (0.6, 0.3), (3.0, 0.9)] {
        let mut pld = Pld::new(1e-4).unwrap();
        pld.sampled_gaussian(m, q, 1).unwrap();
        for epsilon in [0.01, 0.1, 0.5] {
            let e = f64::exp(epsilon);
            let place = |odds: f64| (odds > 0.0).then(|| 0.5 + m * m * odds.ln());
            let mixture = |x: f64| (1.0 - q) * tail(x / m) + q * tail((x - 1.0) / m);
            let remove = place((e - 1.0 + q) / q).map_or(0.0, |x| mixture(x) - e * tail(x / m));
            let add =
                place((1.0 / e - 1.0 + q) / q).map_or(0.0, |x| 1.0 - tail(x / m) - e * (1.0 - mixture(x)));
            let (exact, found) = (remove.max(add), pld.delta(epsilon));
            // Another rounding than ours: a difference of tails, to a few units in the last place of 1.
            assert!(found >= exact * (1.0 - 1e-9) - 1e-15, "{m} {q} {epsilon}: {found:e} below {exact:e}");
            assert!(found <= exact * (1.0 + 1e-4) + 1e-12, "{m} {q} {epsilon}: {found:e} above {exact:e}");
        }
    }
}

#[test]
fn a_bound_that_cannot_be_computed_is_infinite_not_low() {
    for m in [1e-3, 0.3, 1e9] {
        for q in [1e-12, 1e-3, 1.0 - 1e-9] {
            for count in [1, 1 << 40] {
                let mut pld = Pld::new(0.1).unwrap();
                pld.sampled_gaussian(m, q, count).unwrap();
                let (epsilon, delta) = (pld.epsilon(1e-5), pld.delta(1.0));
                assert!(epsilon >= 0.0 && (0.0..=1.0).contains(&delta), "{m} {q} {count}: {epsilon} {delta}");
                // A lower bound: the first release alone, seen from its own sample.
                let sampled_once = q * gaussian::delta(1e-9, 1.0 / m) * 0.99;
                assert!(epsilon > 1e-9 || sampled_once <= 1e-5, "{m} {q} {count}: {epsilon}");
            }
        }
    }
    let mut pld = Pld::new(1e-3).unwrap();
    assert_eq!((pld.epsilon(1e-5), pld.epsilon(0.0), pld.delta(0.0)), (0.0, 0.0, 0.0));
    pld.gaussian(1.0, 1).unwrap();
    assert_eq!(
        (pld.epsilon(0.0), pld.epsilon(-1.0), pld.epsilon(f64::NAN)),
        (f64::INFINITY, f64::INFINITY, f64::INFINITY)
    );
    assert_eq!((pld.delta(-1.0), pld.delta(f64::NAN), pld.delta(f64::INFINITY)), (1.0, 1.0, 0.0));
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(pld.gaussian(bad, 1).is_err() && pld.sampled_gaussian(bad, 0.5, 1).is_err());
        assert!(
            Pld::new(bad).is_err()
                && rdp::gaussian(2.0, bad).is_err()
                && rdp::gaussian(1.0 + bad.min(0.0), 1.0).is_err()
        );
    }
    for bad in [-0.1, 1.1, f64::NAN] {
        assert!(pld.sampled_gaussian(1.0, bad, 1).is_err() && rdp::sampled_gaussian(2.0, 1.0, bad).is_err());
        assert_eq!(rdp::epsilon([(2.0, 1.0)], bad), f64::INFINITY);
    }
    assert!(pld.pure(-1.0, 1).is_err() && rdp::pure(2.0, f64::NAN).is_err());
    assert_eq!(rdp::epsilon([], 1e-5), f64::INFINITY);
}

/// The integral for fractional orders meets the sum for integer ones.
#[test]
fn divergences_are_continuous_in_the_order() {
    for (m, q) in [(0.1, 0.5), (0.2, 0.9), (0.3, 0.01), (1.0, 1e-4), (1.0, 0.5), (5.0, 0.99), (30.0, 0.01)] {
        for order in [2.0, 3.0, 7.0, 40.0, 300.0] {
            let at = |order| rdp::sampled_gaussian(order, m, q).unwrap();
            let (sum, integral) = (at(order), at(order * (1.0 + 1e-12)));
            assert!((integral / sum - 1.0).abs() < 1e-7, "{m} {q} {order}: {sum} {integral}");
        }
    }
    assert_eq!(rdp::sampled_gaussian(2.5, 1.5, 1.0), rdp::gaussian(2.5, 1.5));
    assert_eq!(rdp::sampled_gaussian(2.5, 1.5, 0.0), Ok(0.0));
}

fn sampled(m: f64, rate: f64, count: u64) -> Pld {
    let mut pld = Pld::new(2e-3).unwrap();
    pld.sampled_gaussian(m, rate, count).unwrap();
    pld
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_loss_distribution_grows_with_steps_and_rate_and_falls_with_noise_and_delta(
        m in 0.5f64..8.0, rate in 0.001f64..1.0, count in 1u64..300, log_delta in -12.0f64..-2.0,
    ) {
        let delta = 10f64.powf(log_delta);
        let here = sampled(m, rate, count).epsilon(delta);
        // Two bounds, each a little above the truth.
        let below = here * (1.0 - 1e-4) - 1e-6;
        prop_assert!(sampled(m, rate, count + 1).epsilon(delta) >= below);
        prop_assert!(sampled(m * 0.95, rate, count).epsilon(delta) >= below);
        prop_assert!(sampled(m, (rate * 1.05).min(1.0), count).epsilon(delta) >= below);
        prop_assert!(sampled(m, rate, count).epsilon(delta * 0.9) >= below);
        let back = sampled(m, rate, count).delta(here);
        prop_assert!(here == 0.0 || (back / delta - 1.0).abs() < 0.01, "δ({}) = {:e}, not {:e}", here, back, delta);
        // Not above what the divergences prove, and for each sampled release an unsampled one costs more.
        let divergence = |a: f64| (a, count as f64 * rdp::sampled_gaussian(a, m, rate).unwrap());
        let proven = rdp::epsilon(rdp::orders().into_iter().map(divergence), delta);
        prop_assert!(here <= proven * 1.01 + 0.05, "{} {}", here, proven);
        let whole = epsilon_of(&[Event::Gaussian { noise_multiplier: m, count }], delta).unwrap();
        prop_assert!(here <= whole * 1.01 + 0.05);
    }

    #[test]
    fn a_loss_distribution_is_never_below_the_exact_value(
        m in 0.2f64..20.0, count in 1u64..100, log_delta in -15.0f64..-1.0,
    ) {
        let delta = 10f64.powf(log_delta);
        let exact = epsilon_of(&[Event::Gaussian { noise_multiplier: m, count }], delta).unwrap();
        let mut pld = Pld::new(2e-3).unwrap();
        pld.gaussian(m, count).unwrap();
        let found = pld.epsilon(delta);
        prop_assert!(found >= exact && (found.is_infinite() || found <= exact * 1.001 + 1e-2), "{} {}", found, exact);
        let divergence = |a: f64| (a, count as f64 * rdp::gaussian(a, m).unwrap());
        prop_assert!(rdp::epsilon(rdp::orders().into_iter().map(divergence), delta) >= exact);
    }

    #[test]
    fn a_tight_bound_is_between_the_largest_part_and_the_sum(
        m in 0.5f64..10.0, pure in 0.0f64..1.0, times in 1usize..6, log_delta in -12.0f64..-2.0,
    ) {
        let delta = 10f64.powf(log_delta);
        let mut events = vec![Event::Pure { epsilon: pure }; times];
        events.push(Event::gaussian(m));
        let tight = epsilon_tight(&events, delta).unwrap();
        prop_assert!(tight <= epsilon_of(&events, delta).unwrap());
        prop_assert!(tight >= epsilon_of(&[Event::gaussian(m)], delta).unwrap());
        events.push(Event::gaussian(m));
        prop_assert!(epsilon_tight(&events, delta).unwrap() >= tight);
    }
}

proptest! {
    #[test]
    fn divergences_grow_with_order_and_rate_and_fall_with_noise(
        order in 1.05f64..40.0, m in 0.3f64..20.0, rate in 1e-5f64..0.99, epsilon in 0.0f64..10.0,
    ) {
        let at = |order, m, rate| rdp::sampled_gaussian(order, m, rate).unwrap();
        let here = at(order, m, rate);
        prop_assert!(here > 0.0 && here <= rdp::gaussian(order, m).unwrap());
        prop_assert!(at(order * 1.01, m, rate) > here);
        prop_assert!(at(order.ceil().max(2.0), m, rate) >= here * (1.0 - 1e-9));
        prop_assert!(at(order, m * 0.99, rate) > here);
        prop_assert!(at(order, m, rate * 1.01) > here);
        let pure = rdp::pure(order, epsilon).unwrap();
        prop_assert!((0.0..=epsilon).contains(&pure) && rdp::pure(order * 1.01, epsilon).unwrap() >= pure * (1.0 - 1e-12));
    }

    #[test]
    fn what_divergences_prove_grows_with_steps_and_falls_with_delta(
        m in 0.3f64..20.0, rate in 1e-3f64..1.0, steps in 1u32..10_000, log_delta in -15.0f64..-1.0,
    ) {
        let orders = [1.5, 2.0, 4.5, 8.0, 32.0];
        let one: Vec<_> = orders.map(|a| (a, rdp::sampled_gaussian(a, m, rate).unwrap())).to_vec();
        let epsilon = |steps: u32, delta| rdp::epsilon(one.iter().map(|(a, r)| (*a, f64::from(steps) * r)), delta);
        let delta = 10f64.powf(log_delta);
        prop_assert!(epsilon(steps + 1, delta) >= epsilon(steps, delta));
        prop_assert!(epsilon(steps, delta * 0.9) >= epsilon(steps, delta));
    }

    #[test]
    fn calibration_is_the_inverse_of_the_price(
        before in 1.0f64..20.0, pure in 0.0f64..1.0, numbers in 0u64..1 << 16, count in 1u64..500,
        room in 0.05f64..10.0, log_delta in -12.0f64..-2.0,
    ) {
        let delta = 10f64.powf(log_delta);
        let lattice = Event::LatticeGaussian { noise_multiplier: before, numbers, count: 1, clipped: true };
        let base = Loss::default().and(&lattice).unwrap().and(&Event::Pure { epsilon: pure }).unwrap();
        let epsilon = base.epsilon(delta) + room;
        let m = calibrate(base, count, epsilon, delta).unwrap();
        let with = |m| base.and(&Event::Gaussian { noise_multiplier: m, count }).unwrap();
        prop_assert!(with(m).within(epsilon, delta) && !with(m * (1.0 - 1e-8)).within(epsilon, delta));
        prop_assert!((with(m).epsilon(delta) / epsilon - 1.0).abs() < 1e-7);
        let mut singly = base;
        for _ in 0..count {
            singly = singly.and(&Event::gaussian(m)).unwrap();
        }
        prop_assert!(singly.within(epsilon, delta), "charged one by one it is {}", singly.epsilon(delta));
        prop_assert!(calibrate(base, count + 1, epsilon, delta).unwrap() > m);
        prop_assert!(calibrate(base, count, epsilon, delta * 0.9).unwrap() > m);
    }
}

proptest! {
    #[test]
    fn delta_and_epsilon_are_inverse(mu in 0.01f64..50.0, log_delta in -16.0f64..-0.5) {
        let delta = 10f64.powf(log_delta);
        let epsilon = gaussian::epsilon(mu, delta);
        prop_assume!(epsilon > 0.0);
        let back = gaussian::delta(epsilon, mu);
        prop_assert!(back <= delta);
        prop_assert!(back >= delta * (1.0 - 1e-6), "{} {}", back, delta);
        let sigma = gaussian::sigma(epsilon, delta, 1.0).unwrap();
        prop_assert!((sigma * mu - 1.0).abs() < 1e-6 && sigma * mu >= 1.0);
    }

    #[test]
    fn loss_grows_with_steps_and_falls_with_noise_and_delta(
        multiplier in 0.05f64..50.0, count in 1u64..1000, log_delta in -16.0f64..-1.0,
    ) {
        let delta = 10f64.powf(log_delta);
        let epsilon = |noise_multiplier, count, delta| {
            epsilon_of(&[Event::Gaussian { noise_multiplier, count }], delta).unwrap()
        };
        let here = epsilon(multiplier, count, delta);
        let grows = |more: f64| more > here || (here == 0.0 && more >= 0.0);
        prop_assert!(grows(epsilon(multiplier, count + 1, delta)));
        prop_assert!(grows(epsilon(multiplier * 0.99, count, delta)));
        prop_assert!(grows(epsilon(multiplier, count, delta * 0.9)));
    }

    #[test]
    fn a_budget_is_kept_exactly_where_epsilon_says(
        multiplier in 0.1f64..20.0, pure in 0.0f64..3.0, factor in 0.9f64..1.1,
    ) {
        let events = [Event::gaussian(multiplier), Event::RandomisedResponse { epsilon: pure }];
        let loss = events.iter().try_fold(accounting::Loss::default(), |l, e| l.and(e)).unwrap();
        let epsilon = loss.epsilon(1e-5);
        prop_assume!(epsilon > 0.0 && (factor - 1.0).abs() > 1e-9);
        prop_assert_eq!(loss.within(epsilon * factor, 1e-5), factor > 1.0);
    }
}
