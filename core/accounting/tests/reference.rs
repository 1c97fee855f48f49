#![allow(clippy::unwrap_used)] // a test that fails says why
//! Comparison with an independent implementation. `cargo test -p asymflow-accounting --test reference -- --nocapture`
//! prints the worst difference of every table.

use accounting::{Event, Pld, epsilon_of, gaussian, randomised_response, rdp};
use asymflow_accounting as accounting;
use serde_json::Value;

/// Largest accepted relative difference from the reference values.
const RELATIVE: f64 = 1e-6;

/// The same for privacy loss distributions, which are upper bounds on both sides.
const PLD_RELATIVE: f64 = 1e-3;

fn reference() -> Option<Value> {
    vectors::folder("privacy").map(|folder| vectors::index(&folder.join("privacy.json")))
}

fn rows<'a>(table: &'a Value, name: &str) -> &'a Vec<Value> {
    table[name].as_array().filter(|rows| !rows.is_empty()).unwrap_or_else(|| panic!("{name} has no rows"))
}

fn number(row: &Value, name: &str) -> f64 {
    row[name].as_f64().unwrap_or_else(|| panic!("{name} is no number in {row}"))
}

/// One column of the reference values: how many were compared, and the worst relative difference.
struct Column {
    name: &'static str,
    accepted: f64,
    compared: usize,
    worst: f64,
}

impl Column {
    fn new(name: &'static str, accepted: f64) -> Self {
        Column { name, accepted, compared: 0, worst: 0.0 }
    }

    #[track_caller]
    fn near(&mut self, found: f64, expected: f64, row: &Value) {
        let difference = (found / expected - 1.0).abs();
        assert!(difference <= self.accepted, "{}: found {found}, expected {expected} in {row}", self.name);
        self.compared += 1;
        self.worst = self.worst.max(difference);
    }

    /// A value that may only be rounded up: at most the last digits of the reference below it.
    #[track_caller]
    fn overstates(&mut self, found: f64, expected: f64, row: &Value) {
        assert!(found >= expected * (1.0 - 1e-12), "{}: {found} understates {expected} in {row}", self.name);
        self.near(found, expected, row);
    }

    fn report(self) {
        assert!(self.compared > 0, "{}: nothing was compared", self.name);
        println!("{}: {} values, worst relative difference {:.1e}", self.name, self.compared, self.worst);
    }
}

#[test]
fn vectors_privacy_analytic_gaussian() {
    let Some(table) = reference() else { return };
    let table = &table["analytic_gaussian"];
    let mut sigmas = Column::new("analytic_gaussian, sigma", RELATIVE);
    let mut deltas = Column::new("analytic_gaussian, delta", RELATIVE);
    let mut epsilons = Column::new("analytic_gaussian, epsilon", RELATIVE);
    for row in rows(table, "rows").iter().chain(rows(table, "other_sensitivities")) {
        let (epsilon, delta) = (number(row, "epsilon"), number(row, "delta"));
        let (sensitivity, sigma) = (number(row, "sensitivity"), number(row, "sigma_analytic"));
        sigmas.overstates(gaussian::sigma(epsilon, delta, sensitivity).unwrap(), sigma, row);
        deltas.near(gaussian::delta(epsilon, sensitivity / sigma), delta, row);
        epsilons.near(gaussian::epsilon(sensitivity / sigma, delta), epsilon, row);
        let none = accounting::Loss::default();
        sigmas.overstates(accounting::calibrate(none, 1, epsilon, delta).unwrap() * sensitivity, sigma, row);
    }
    [sigmas, deltas, epsilons].into_iter().for_each(Column::report);
}

#[test]
fn vectors_privacy_composition_exact() {
    let Some(table) = reference() else { return };
    let mut column = Column::new("composition, epsilon_exact_gaussian", RELATIVE);
    for row in rows(&table["composition"], "rows") {
        let Some(expected) = row["epsilon_exact_gaussian"].as_f64() else { continue };
        let (sigma, delta) = (number(row, "sigma"), number(row, "delta"));
        let count = row["steps"].as_u64().unwrap();
        let at_once = [Event::Gaussian { noise_multiplier: sigma, count }];
        let mu = gaussian::compose((0..count).map(|_| (1.0, sigma)));
        column.overstates(epsilon_of(&at_once, delta).unwrap(), expected, row);
        column.overstates(gaussian::epsilon(mu, delta), expected, row);
    }
    column.report();
}

/// Never below the exact value, and as far above it as another implementation of the same kind.
#[test]
fn vectors_privacy_composition_pld() {
    let Some(table) = reference() else { return };
    let mut column = Column::new("composition, epsilon_pld", PLD_RELATIVE);
    for row in rows(&table["composition"], "rows") {
        let mut pld = Pld::new(Pld::INTERVAL).unwrap();
        let steps = row["steps"].as_u64().unwrap();
        pld.sampled_gaussian(number(row, "sigma"), number(row, "q"), steps).unwrap();
        let found = pld.epsilon(number(row, "delta"));
        column.near(found, number(row, "epsilon_pld"), row);
        if let Some(exact) = row["epsilon_exact_gaussian"].as_f64() {
            assert!(found >= exact, "{found} understates {exact} in {row}");
        }
    }
    column.report();
}

/// ε of these orders by the series of Mironov, Talwar & Zhang 2019 with every term's magnitude, which is how the reference
/// was made; an order whose series does not end within a thousand terms is left out there.
fn epsilon_of_magnitudes(orders: &[f64], sigma: f64, q: f64, steps: f64, delta: f64) -> f64 {
    let divergences = orders.iter().filter_map(|&order| {
        if q == 1.0 || order.fract() == 0.0 {
            return Some((order, steps * rdp::sampled_gaussian(order, sigma, q).unwrap()));
        }
        let series = Series::of(order, sigma, q, 1000)?;
        Some((order, steps * series.magnitudes.ln() / (order - 1.0)))
    });
    rdp::epsilon(divergences, delta)
}

/// Integer orders agree; with fractional ones ours may only be lower, and never below the privacy loss distribution.
#[test]
fn vectors_privacy_composition_rdp() {
    let Some(table) = reference() else { return };
    let orders = numbers(&table["rdp_curves"]["default_orders"]);
    let integers: Vec<f64> = (2..=256).map(f64::from).collect();
    let mut whole = Column::new("composition, epsilon_rdp_integer_orders_2_256", RELATIVE);
    let mut all = Column::new("composition, epsilon_rdp (all terms positive)", RELATIVE);
    let mut ours = Column::new("composition, epsilon_rdp (terms with their signs: lower)", 0.05);
    for row in rows(&table["composition"], "rows") {
        let (sigma, q, delta) = (number(row, "sigma"), number(row, "q"), number(row, "delta"));
        let steps = number(row, "steps");
        let divergence = |&order: &f64| (order, steps * rdp::sampled_gaussian(order, sigma, q).unwrap());
        let expected = number(row, "epsilon_rdp_integer_orders_2_256");
        whole.overstates(rdp::epsilon(integers.iter().map(divergence), delta), expected, row);
        let expected = number(row, "epsilon_rdp");
        all.near(epsilon_of_magnitudes(&orders, sigma, q, steps, delta), expected, row);
        let found = rdp::epsilon(orders.iter().map(divergence), delta);
        ours.near(found, expected, row);
        assert!(found <= expected * (1.0 + 1e-12) && found > number(row, "epsilon_pld"), "{found} in {row}");
    }
    [whole, all, ours].into_iter().for_each(Column::report);
}

/// The reference adds the magnitudes of the series' terms, whose signs alternate once `k` is past the order, and so
/// overstates fractional orders; with their signs the series agrees with our integral.
#[test]
fn vectors_privacy_rdp_curves() {
    let Some(table) = reference() else { return };
    let mut whole = Column::new("rdp_curves, integer orders and rate 1", RELATIVE);
    let mut magnitudes = Column::new("rdp_curves, fractional orders (all terms positive)", RELATIVE);
    let mut signed = Column::new("fractional orders against the series with its signs", RELATIVE);
    for row in rows(&table["rdp_curves"], "rows") {
        let (sigma, q) = (number(row, "sigma"), number(row, "q"));
        for (order, expected) in numbers(&row["orders"]).into_iter().zip(numbers(&row["rdp_one_step"])) {
            let found = rdp::sampled_gaussian(order, sigma, q).unwrap();
            if q == 1.0 || order.fract() == 0.0 {
                whole.overstates(found, expected, row);
                continue;
            }
            let series = Series::of(order, sigma, q, 1000).expect("the reference has no other orders");
            magnitudes.near(series.magnitudes.ln() / (order - 1.0), expected, row);
            signed.near(found, series.signed.ln() / (order - 1.0), row);
            assert!(found <= expected * (1.0 + 1e-12), "order {order}: {found} above {expected}");
        }
    }
    [whole, magnitudes, signed].into_iter().for_each(Column::report);
}

fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// `A_α` of a fractional order as a series (Mironov, Talwar & Zhang 2019).
struct Series {
    signed: f64,
    /// Every term positive.
    magnitudes: f64,
}

impl Series {
    /// The sum up to the first term below e^−30; `None` if there is none among so many.
    fn of(order: f64, sigma: f64, q: f64, most: usize) -> Option<Series> {
        let z0 = sigma * sigma * (1.0 / q - 1.0).ln() + 0.5;
        let tail = |x: f64| log_half_erfc(x / (2f64.sqrt() * sigma));
        let power = |k: f64| (k * k - k) / (2.0 * sigma * sigma);
        let (mut sum, mut binomial, mut sign) = (Series { signed: 0.0, magnitudes: 0.0 }, 0.0, 1.0);
        for i in 0..most {
            let (k, rest) = (i as f64, order - i as f64);
            let below = binomial + k * q.ln() + rest * (-q).ln_1p() + power(k) + tail(k - z0);
            let above = binomial + rest * q.ln() + k * (-q).ln_1p() + power(rest) + tail(z0 - rest);
            sum.signed += sign * (below.exp() + above.exp());
            sum.magnitudes += below.exp() + above.exp();
            if below.max(above) < -30.0 {
                return Some(sum);
            }
            binomial += (rest.abs() / (k + 1.0)).ln();
            sign *= rest.signum();
        }
        None
    }
}

/// `ln(erfc(x)/2)`, where erfc is too small for a float too.
fn log_half_erfc(x: f64) -> f64 {
    if x < 25.0 {
        return (0.5 * libm::erfc(x)).ln();
    }
    let y = 1.0 / (2.0 * x * x);
    -x * x - (2.0 * x).ln() - 0.5 * std::f64::consts::PI.ln()
        + (1.0 - y + 3.0 * y * y - 15.0 * y * y * y).ln()
}

#[test]
fn vectors_privacy_randomised_response() {
    let Some(table) = reference() else { return };
    let table = &table["randomized_response"];
    let mut epsilons = Column::new("randomized_response by_p, epsilon", RELATIVE);
    let mut grid = Column::new("randomized_response by_p, epsilon_pld_delta0", RELATIVE);
    let mut keeps = Column::new("randomized_response by_epsilon, prob_true", RELATIVE);
    for row in rows(table, "by_p") {
        let k = row["k"].as_u64().unwrap() as usize;
        let found = randomised_response::epsilon(k, number(row, "prob_true")).unwrap();
        epsilons.overstates(found, number(row, "epsilon"), row);
        let mut pld = Pld::new(Pld::INTERVAL).unwrap();
        pld.pure(found, 1).unwrap();
        grid.overstates(pld.epsilon(0.0), number(row, "epsilon_pld_delta0"), row);
    }
    for row in rows(table, "by_epsilon") {
        let k = row["k"].as_u64().unwrap() as usize;
        let keep = randomised_response::keep(k, number(row, "epsilon")).unwrap();
        keeps.near(keep, number(row, "prob_true"), row);
        assert!(keep <= number(row, "prob_true"), "the truth is told too often in {row}");
    }
    [epsilons, grid, keeps].into_iter().for_each(Column::report);
}
