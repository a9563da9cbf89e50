use super::*;
use proptest::prelude::*;

fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-9, "{found} instead of {expected}");
}

/// Stanford CS336's case: max 1, min 0.1, warm-up 7, cycle 21. The values come from max − (max − min) · sin²(πr / 2) in
/// another language.
#[test]
fn cosine_from_zero_gives_the_known_vector() {
    let expected = [
        0.0,
        0.1428571429,
        0.2857142857,
        0.4285714286,
        0.5714285714,
        0.7142857143,
        0.8571428571,
        1.0,
        0.9887175605,
        0.9554359906,
        0.9018241671,
        0.8305704108,
        0.7452476826,
        0.6501344203,
        0.55,
        0.4498655797,
        0.3547523174,
        0.2694295892,
        0.1981758329,
        0.1445640094,
        0.1112824395,
        0.1,
        0.1,
        0.1,
        0.1,
    ];
    let warmup = Warmup { steps: 7, from: WarmupFrom::Zero };
    let schedule = Schedule::Cosine(Cosine { max: 1.0, min: 0.1, warmup, decay_steps: 21 });
    for (step, expected) in expected.into_iter().enumerate() {
        near(schedule.lr(step as u64), expected);
    }
}

/// nanoGPT's character Shakespeare: rate 1e-3, minimum 1e-4, warm-up 100, decay over 2000 steps.
#[test]
fn cosine_from_the_first_step_is_nanogpts() {
    let warmup = Warmup { steps: 100, from: WarmupFrom::FirstStep };
    let schedule = Cosine { max: 1e-3, min: 1e-4, warmup, decay_steps: 2000 };
    let expected = [
        (0, 9.900990099009901e-06),
        (1, 1.9801980198019803e-05),
        (50, 0.000504950495049505),
        (99, 0.0009900990099009901),
        (100, 0.001),
        (101, 0.0009999993848585917),
        (575, 0.0008681980515339464),
        (1050, 0.00055),
        (1999, 0.00010000061514140845),
        (2000, 1e-4),
        (2001, 1e-4),
        (5000, 1e-4),
    ];
    for (step, expected) in expected {
        let found = schedule.lr(step);
        assert!((found - expected).abs() <= 1e-15, "step {step}: {found} instead of {expected}");
    }
}

#[test]
fn decay_falls_in_a_line_over_the_last_steps() {
    let warmup = Warmup { steps: 4, from: WarmupFrom::FirstStep };
    let schedule = WarmupStableDecay { max: 1.0, min: 0.0, warmup, total_steps: 20, decay_fraction: 0.2 };
    let expected = [0.2, 0.4, 0.6, 0.8];
    for step in 0..25 {
        let expected = match step {
            0..=3 => expected[step as usize],
            4..=16 => 1.0,
            17 => 0.75,
            18 => 0.5,
            19 => 0.25,
            _ => 0.0,
        };
        near(schedule.lr(step), expected);
    }
    near(WarmupStableDecay { decay_fraction: 0.0, ..schedule }.lr(19), 1.0);
    near(WarmupStableDecay { decay_fraction: 1.0, warmup: Warmup { steps: 0, ..warmup }, ..schedule }.lr(5), 0.75);
}

#[test]
fn a_decay_that_ends_before_the_warmup_leaves_the_minimum() {
    let warmup = Warmup { steps: 10, from: WarmupFrom::Zero };
    let schedule = Cosine { max: 1.0, min: 0.1, warmup, decay_steps: 5 };
    near(schedule.lr(9), 0.9);
    near(schedule.lr(10), 0.1);
    near(Cosine { decay_steps: 10, ..schedule }.lr(10), 0.1);
    near(Cosine { decay_steps: 0, warmup: Warmup { steps: 0, ..warmup }, ..schedule }.lr(0), 0.1);
}

#[test]
fn wrong_numbers_are_named() {
    let warmup = Warmup { steps: 1, from: WarmupFrom::Zero };
    let cosine = Cosine { max: 1.0, min: 0.1, warmup, decay_steps: 5 };
    assert_eq!(Schedule::Cosine(cosine).validate(), Ok(()));
    let above = Schedule::Cosine(Cosine { min: 2.0, ..cosine }).validate().unwrap_err();
    assert_eq!(above, ScheduleError::MinAboveMax { min: 2.0, max: 1.0 });
    for value in [-1.0, f64::INFINITY, f64::NAN] {
        let wrong = Schedule::Constant { lr: value }.validate().unwrap_err().to_string();
        assert!(wrong.contains("`lr`") && wrong.contains(&value.to_string()), "{wrong}");
        assert!(Schedule::Cosine(Cosine { max: value, ..cosine }).validate().is_err());
        assert!(Schedule::Cosine(Cosine { min: value, ..cosine }).validate().is_err());
    }
    for fraction in [-0.1, 1.1, f64::NAN] {
        let decay = WarmupStableDecay { max: 1.0, min: 0.0, warmup, total_steps: 5, decay_fraction: fraction };
        assert!(matches!(Schedule::WarmupStableDecay(decay).validate(), Err(ScheduleError::DecayFraction(_))));
    }
}

#[test]
fn a_schedule_survives_json() {
    let warmup = Warmup { steps: 7, from: WarmupFrom::FirstStep };
    let schedules = [
        Schedule::Constant { lr: 3e-4 },
        Schedule::Cosine(Cosine { max: 1.0, min: 0.1, warmup, decay_steps: 21 }),
        Schedule::WarmupStableDecay(WarmupStableDecay {
            max: 1.0,
            min: 0.1,
            warmup,
            total_steps: 21,
            decay_fraction: 0.2,
        }),
    ];
    for schedule in schedules {
        let text = serde_json::to_string(&schedule).unwrap();
        assert_eq!(serde_json::from_str::<Schedule>(&text).unwrap(), schedule, "{text}");
    }
    let text = serde_json::to_string(&schedules[1]).unwrap();
    assert!(text.contains(r#""kind":"cosine""#) && text.contains(r#""from":"first-step""#), "{text}");
}

fn any_warmup() -> impl Strategy<Value = Warmup> {
    (prop_oneof![0_u64..50, any::<u64>()], prop_oneof![Just(WarmupFrom::Zero), Just(WarmupFrom::FirstStep)])
        .prop_map(|(steps, from)| Warmup { steps, from })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// For all numbers of steps, the rate stays between 0 and the maximum, and never rises after the warm-up.
    #[test]
    fn rates_stay_in_bounds(
        warmup in any_warmup(),
        steps in prop_oneof![0_u64..100, any::<u64>()],
        fraction in 0.0..=1.0,
        min in 0.0..1.0,
        step in prop_oneof![0_u64..120, any::<u64>()],
    ) {
        let cosine = Schedule::Cosine(Cosine { max: 1.0, min, warmup, decay_steps: steps });
        let stable =
            WarmupStableDecay { max: 1.0, min, warmup, total_steps: steps, decay_fraction: fraction };
        for schedule in [cosine, Schedule::WarmupStableDecay(stable)] {
            prop_assert_eq!(schedule.validate(), Ok(()));
            let (now, next) = (schedule.lr(step), schedule.lr(step.saturating_add(1)));
            prop_assert!((0.0..=1.0 + 1e-12).contains(&now), "{}", now);
            if step >= warmup.steps {
                prop_assert!(now >= min - 1e-12 && next <= now + 1e-12, "{} {}", now, next);
            } else if step + 1 < warmup.steps {
                prop_assert!(next >= now);
            }
        }
    }
}
