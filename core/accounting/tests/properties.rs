#![allow(clippy::unwrap_used)] // a test that fails says why
//! Properties that any accountant must have, and its behaviour at the edges.

use accounting::{
    AccountingError, Event, LATTICE_ETA, Loss, Pld, calibrate, epsilon_of, epsilon_tight,
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
