//! The facts of the operations of an optimizer's update.

use crate::op::info::{Bytes, Cost, Effects, Info, Shapes};
use crate::{Rows, Shape};

/// The norm of all gradients and the factor that clips them.
const CLIP: Shape = Shape { rows: Rows::Fixed(1), cols: 2 };

pub(super) fn grad_squares() -> Info {
    let shapes = |s: &Shapes<'_>| {
        s.arity(0..=0)?;
        Ok(vec![Shape { rows: Rows::Fixed(s.square_blocks()), cols: 1 }])
    };
    Info::new("grad_squares", shapes).effects(Effects::GRADIENTS).cost(|o| {
        let all = o.params.layout().len() as f64;
        Cost { weights: Bytes::of_elements(all, 0.0), ..o.pass_over(2.0 * all) }
    })
}

pub(super) fn clip_factor(max_norm: f64) -> Info {
    let shapes = move |s: &Shapes<'_>| {
        s.arity(1..=1)?;
        s.require(max_norm >= 0.0, "the greatest norm allowed is a number of at least 0")?;
        Ok(vec![CLIP])
    };
    Info::new("clip_factor", shapes).cost(|o| o.pass_over(o.input_elements()))
}

pub(super) fn adamw() -> Info {
    let shapes = |s: &Shapes<'_>| {
        s.arity(1..=1)?;
        s.expect(0, CLIP)?;
        Ok(vec![])
    };
    let effects = Effects { gradients: true, parameters: true, cache: false };
    Info::new("adamw", shapes).effects(effects).cost(|o| {
        let all = o.params.layout().len() as f64;
        // Parameters, gradients and both moments.
        Cost { weights: Bytes::of_elements(4.0 * all, 4.0 * all), ..o.pass_over(14.0 * all) }
    })
}
