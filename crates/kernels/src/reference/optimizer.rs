//! Twins of the optimizer.

use crate::optimizer::AdamW;

/// One step of AdamW on `param` `[n]`, with gradient `grad`, which becomes 0, and moments `m` and `v`.
pub fn adamw(config: &AdamW, param: &mut [f64], grad: &mut [f64], m: &mut [f64], v: &mut [f64]) {
    for i in 0..param.len() {
        let g = grad[i] * config.grad_scale;
        grad[i] = 0.0;
        param[i] *= 1.0 - config.lr * config.weight_decay;
        m[i] = config.beta1 * m[i] + (1.0 - config.beta1) * g;
        v[i] = config.beta2 * v[i] + (1.0 - config.beta2) * g * g;
        let m_hat = m[i] / config.bias_correction1;
        let v_hat = v[i] / config.bias_correction2;
        param[i] -= config.lr * m_hat / (v_hat.sqrt() + config.eps);
    }
}

/// `Σ xᵢ²`.
pub fn sum_of_squares(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum()
}
