//! The formulas of drift, each with where it comes from.

use std::f64::consts::PI;

/// A share of zero is taken as this in [`psi`]: the logarithm of 0 has no value. One row in ten thousand, the usual
/// choice (that of the library Evidently, for one).
pub const LEAST_SHARE: f64 = 1e-4;

/// The population stability index Σ (bᵢ − aᵢ) ln(bᵢ / aᵢ) of two distributions over the same bins; `a` and `b` are counts,
/// turned into shares here, and shares below [`LEAST_SHARE`] are raised to it. 0 = equal; below 0.1 is read as stable,
/// up to 0.25 as some shift, above as a large one. `None` if either has no rows.
///
/// Siddiqi, "Credit Risk Scorecards" (2006); it is the symmetrised Kullback-Leibler divergence (Jeffreys, 1946). Its
/// expectation for two samples of one distribution is about (bins − 1) × (1/n + 1/m): Yurdakul and Naranjo,
/// "Statistical properties of the population stability index" (2020).
pub fn psi(a: &[f64], b: &[f64]) -> Option<f64> {
    let (all_a, all_b): (f64, f64) = (a.iter().sum(), b.iter().sum());
    if all_a <= 0.0 || all_b <= 0.0 {
        return None;
    }
    let share = |count: f64, all: f64| (count / all).max(LEAST_SHARE);
    let of_bin = |(&a, &b): (&f64, &f64)| {
        let (a, b) = (share(a, all_a), share(b, all_b));
        (b - a) * (b / a).ln()
    };
    Some(a.iter().zip(b).map(of_bin).sum())
}

/// Half of Σ |aᵢ − bᵢ| over shares: which part of the rows would have to move to another bin; 0 to 1. `None` if either has
/// no rows.
pub fn total_variation(a: &[f64], b: &[f64]) -> Option<f64> {
    let (all_a, all_b): (f64, f64) = (a.iter().sum(), b.iter().sum());
    if all_a <= 0.0 || all_b <= 0.0 {
        return None;
    }
    Some(a.iter().zip(b).map(|(a, b)| (a / all_a - b / all_b).abs()).sum::<f64>() / 2.0)
}

/// The probability of a two-sample Kolmogorov-Smirnov statistic of `d` or more between samples of `n` and `m` values of
/// one continuous distribution, by its limit: Q(√(nm/(n+m)) × d). With ties it is an upper bound.
///
/// Smirnov, "Table for estimating the goodness of fit of empirical distributions" (1948).
pub fn ks_p_value(d: f64, n: u64, m: u64) -> f64 {
    let (n, m) = (n as f64, m as f64);
    kolmogorov(d * (n * m / (n + m)).sqrt())
}

/// The survival function of Kolmogorov's distribution, Q(x) = 2 Σ (−1)^(k−1) exp(−2 k² x²); for small `x`, where that
/// sum converges slowly, by its other form 1 − √(2π)/x Σ exp(−(2k−1)² π² / (8x²)).
///
/// Marsaglia, Tsang and Wang, "Evaluating Kolmogorov's distribution" (2003).
pub fn kolmogorov(x: f64) -> f64 {
    if x <= 0.0 {
        return 1.0;
    }
    // Both have fallen below 1e-20 after so few terms, on their own side of 1.
    const TERMS: i32 = 6;
    if x < 1.0 {
        let term = |k: i32| (-f64::from(2 * k - 1).powi(2) * PI * PI / (8.0 * x * x)).exp();
        return (1.0 - (2.0 * PI).sqrt() / x * (1..=TERMS).map(term).sum::<f64>()).clamp(0.0, 1.0);
    }
    let term = |k: i32| f64::from(if k % 2 == 1 { 1 } else { -1 }) * (-2.0 * f64::from(k * k) * x * x).exp();
    (2.0 * (1..=TERMS).map(term).sum::<f64>()).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn near(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-12 * a.abs().max(b.abs()), "{a} is not {b}");
    }

    #[test]
    fn psi_of_known_tables() {
        // By hand: (0.3 − 0.5) ln(0.3/0.5) + (0.7 − 0.5) ln(0.7/0.5) = 0.2 ln(7/3).
        near(psi(&[50.0, 50.0], &[30.0, 70.0]).unwrap(), 0.2 * (7.0f64 / 3.0).ln());
        // scipy 1.17.1: a, b = np.array([10,20,30,40])/100, np.array([25,25,25,25])/100;
        // scipy.special.kl_div(a, b).sum() + scipy.special.kl_div(b, a).sum()
        near(psi(&[10.0, 20.0, 30.0, 40.0], &[1.0, 1.0, 1.0, 1.0]).unwrap(), PSI_SCIPY);
        // An empty bin counts as one row in ten thousand: (0.0001 − 0.5) ln(0.0001/0.5) + (1 − 0.5) ln(1/0.5).
        let empty = (1e-4f64 - 0.5) * (1e-4f64 / 0.5).ln() + 0.5 * 2f64.ln();
        near(psi(&[5.0, 5.0], &[0.0, 10.0]).unwrap(), empty);
        assert_eq!((psi(&[], &[]), psi(&[1.0], &[0.0])), (None, None));
    }

    const PSI_SCIPY: f64 = 0.228_217_409_573_391_82;

    #[test]
    fn kolmogorov_as_scipy_has_it() {
        // scipy 1.17.1: [scipy.special.kolmogorov(x) for x in (...)]
        for (x, expected) in KOLMOGOROV_SCIPY {
            let found = kolmogorov(x);
            assert!((found - expected).abs() <= 1e-14 + 1e-11 * expected, "Q({x}) = {found}, not {expected}");
        }
        assert_eq!((kolmogorov(0.0), kolmogorov(-1.0)), (1.0, 1.0));
    }

    const KOLMOGOROV_SCIPY: [(f64, f64); 9] = [
        (0.2, 0.999_999_999_999_495),
        (0.5, 0.963_945_243_664_875_1),
        (0.8, 0.544_142_411_574_198_1),
        (0.99, 0.280_873_839_225_548_9),
        (1.0, 0.269_999_671_677_354_56),
        (1.01, 0.259_434_169_093_596_97),
        (1.358_098_639_322_550_7, 0.049_999_999_999_999_975),
        (2.0, 0.000_670_925_255_779_695_3),
        (3.0, 3.045_995_948_942_526e-8),
    ];

    proptest! {
        #[test]
        fn the_laws_of_divergence(counts in prop::collection::vec((0u32..500, 0u32..500), 1..20)) {
            let (a, b): (Vec<f64>, Vec<f64>) = counts.iter().map(|&(a, b)| (f64::from(a), f64::from(b))).unzip();
            let Some(forth) = psi(&a, &b) else { return Ok(()) };
            prop_assert!(forth >= 0.0);
            let back = psi(&b, &a).unwrap();
            prop_assert!((forth - back).abs() <= 1e-9 * forth.max(1.0));
            prop_assert_eq!(psi(&a, &a), Some(0.0));
            let variation = total_variation(&a, &b).unwrap();
            prop_assert!((0.0..=1.0 + 1e-12).contains(&variation));
            prop_assert_eq!(total_variation(&a, &a), Some(0.0));
        }

        #[test]
        fn probabilities_fall(x in 0.0f64..4.0, more in 0.0f64..1.0) {
            prop_assert!(kolmogorov(x) >= kolmogorov(x + more) - 1e-15);
            prop_assert!((0.0..=1.0).contains(&kolmogorov(x)));
        }
    }
}
