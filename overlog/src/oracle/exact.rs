//! Sums of floats without rounding on the way: a fixed-point number as wide as all floats together.

/// Bits per limb.
const LIMB: usize = 32;
/// 2^-1074 is bit 0; floats end below 2^1024; the rest is room for carries.
const LIMBS: usize = (1074 + 1024) / LIMB + 4;

/// A sum of floats, exact until it is rounded.
pub struct ExactSum {
    /// Signed digits in base 2^32, the lowest first.
    limbs: [i128; LIMBS],
    infinite_or_nan: Option<f64>,
}

impl Default for ExactSum {
    fn default() -> ExactSum {
        ExactSum {
            limbs: [0; LIMBS],
            infinite_or_nan: None,
        }
    }
}

impl ExactSum {
    /// Adds a float.
    pub fn add(&mut self, x: f64) {
        if !x.is_finite() {
            self.infinite_or_nan = Some(self.infinite_or_nan.unwrap_or(0.0) + x);
            return;
        }
        let bits = x.to_bits();
        let exponent = ((bits >> 52) & 0x7ff) as usize;
        let fraction = i128::from(bits & ((1 << 52) - 1));
        let (mantissa, shift) = if exponent == 0 {
            (fraction, 0)
        } else {
            (fraction | (1 << 52), exponent - 1)
        };
        let signed = if bits >> 63 == 1 { -mantissa } else { mantissa };
        if let Some(limb) = self.limbs.get_mut(shift / LIMB) {
            // 53 bits moved by less than 32: below 2^85, so 2^42 additions fit.
            *limb += signed << (shift % LIMB);
        }
    }

    /// The nearest float, ties to even.
    pub fn round(&self) -> f64 {
        if let Some(x) = self.infinite_or_nan {
            return x;
        }
        let (negative, digits) = self.magnitude();
        let width = digits.iter().rposition(|d| *d != 0).map_or(0, |top| {
            let d = digits.get(top).copied().unwrap_or(0);
            top * LIMB + (LIMB - d.leading_zeros() as usize)
        });
        let bit = |i: usize| {
            digits
                .get(i / LIMB)
                .is_some_and(|d| (d >> (i % LIMB)) & 1 == 1)
        };
        let low = width.saturating_sub(53);
        let mut mantissa = (low..width)
            .rev()
            .fold(0_u64, |m, i| (m << 1) | u64::from(bit(i)));
        if low > 0 && bit(low - 1) {
            let above_half = (0..low - 1).any(bit);
            if above_half || mantissa & 1 == 1 {
                mantissa += 1;
            }
        }
        let magnitude = scale(mantissa, low);
        if negative { -magnitude } else { magnitude }
    }

    /// Sign and plain digits of the absolute value.
    fn magnitude(&self) -> (bool, Vec<u32>) {
        let (top, digits) = carried(self.limbs.iter().copied());
        if top >= 0 {
            return (false, digits);
        }
        (true, carried(self.limbs.iter().map(|d| -d)).1)
    }
}

/// Carries; what is left over the top tells the sign.
fn carried(limbs: impl Iterator<Item = i128>) -> (i128, Vec<u32>) {
    let mut carry = 0_i128;
    let digits = limbs
        .map(|limb| {
            let x = limb + carry;
            carry = x >> LIMB;
            (x & 0xffff_ffff) as u32
        })
        .collect();
    (carry, digits)
}

/// `mantissa * 2^(low - 1074)` with at most 54 bits of mantissa: the multiplications are exact, or infinite at the end.
fn scale(mantissa: u64, low: usize) -> f64 {
    let mut x = mantissa as f64;
    let mut exponent = low as i64 - 1074;
    while exponent > 0 {
        let step = exponent.min(1000);
        x *= f64::from_bits(((1023 + step) as u64) << 52);
        exponent -= step;
    }
    while exponent < 0 {
        let step = exponent.max(-1000);
        x *= f64::from_bits(((1023 + step) as u64) << 52);
        exponent -= step;
    }
    x
}

#[cfg(test)]
mod tests {
    use super::ExactSum;

    fn sum(items: &[f64]) -> f64 {
        let mut s = ExactSum::default();
        items.iter().for_each(|x| s.add(*x));
        s.round()
    }

    #[test]
    fn adds_exactly_and_rounds_once() {
        assert_eq!(sum(&[]), 0.0);
        assert_eq!(sum(&[0.1; 10]), 1.0);
        assert_eq!(sum(&[1e308, 1e308, -1e308]), 1e308);
        assert_eq!(sum(&[1e308, 1e308]), f64::INFINITY);
        assert_eq!(sum(&[1.0, 1e100, 1.0, -1e100]), 2.0);
        assert_eq!(sum(&[-1.5, 0.25]), -1.25);
        assert_eq!(sum(&[5e-324, 5e-324]), 1e-323);
        assert_eq!(
            sum(&[f64::MIN_POSITIVE, -5e-324]),
            f64::MIN_POSITIVE - 5e-324
        );
        assert_eq!(sum(&[1.0, f64::EPSILON / 2.0]), 1.0);
        assert_eq!(sum(&[1.0, f64::EPSILON / 2.0, 5e-324]), 1.0 + f64::EPSILON);
        assert!(sum(&[f64::INFINITY, f64::NEG_INFINITY]).is_nan());
    }
}
