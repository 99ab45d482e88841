//! Endpoints at random, by weight, in constant time: Vose's alias method ("A Linear Algorithm for Generating Random Numbers
//! with a Given Distribution", 1991).

use super::hash::Bits;

/// For each endpoint, how much of an equal share is its own, and whose the rest is.
pub struct Alias {
    columns: Box<[Column]>,
}

#[derive(Clone, Copy)]
struct Column {
    /// The part that is its own, of 2^32.
    own: u64,
    other: u32,
}

const WHOLE: u64 = 1 << 32;

impl Alias {
    /// For endpoints of these weights, each at least 1.
    pub fn new(weights: &[u16]) -> Alias {
        let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
        // At most 2^32 for each endpoint, so that the result fits.
        let whole = u128::from(WHOLE) * weights.len() as u128;
        let scale = |weight: u16| (u128::from(weight) * whole / u128::from(total)) as u64;
        let mut left: Vec<u64> = weights.iter().map(|&weight| scale(weight)).collect();
        let mut columns: Vec<Column> = (0..).take(weights.len()).map(|other| Column { own: WHOLE, other }).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..left.len()).partition(|&at| left[at] < WHOLE);
        while let (Some(&poor), Some(&rich)) = (small.last(), large.last()) {
            small.pop();
            columns[poor] = Column { own: left[poor], other: rich as u32 };
            left[rich] -= WHOLE - left[poor];
            if left[rich] < WHOLE {
                large.pop();
                small.push(rich);
            }
        }
        // What is left over are roundings: those columns are whole.
        Alias { columns: columns.into() }
    }

    /// One of them, as an index into the weights; `None` when there are none.
    pub fn draw(&self, bits: &mut Bits) -> Option<usize> {
        let count = self.columns.len() as u64;
        if count == 0 {
            return None;
        }
        let bits = u128::from(bits.draw()) * u128::from(count);
        // The whole part is the column, and the fraction behind it says whose.
        let (at, fraction) = ((bits >> 64) as usize, (bits as u64) >> 32);
        let column = self.columns[at];
        Some(if fraction < column.own { at } else { column.other as usize })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_in_proportion_to_the_weights() {
        let cases: &[&[u16]] =
            &[&[1], &[1, 1], &[1, 2, 3], &[65_535, 1], &[9, 1, 1, 1, 1, 1, 1, 1, 1, 1], &[100, 1, 100, 1]];
        for weights in cases {
            let (alias, mut bits) = (Alias::new(weights), Bits::of(1));
            let mut counts = vec![0u32; weights.len()];
            const DRAWS: u32 = 200_000;
            (0..DRAWS).for_each(|_| counts[alias.draw(&mut bits).unwrap()] += 1);
            let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
            for (&weight, &count) in weights.iter().zip(&counts) {
                let share = f64::from(weight) / total;
                let deviation = (f64::from(DRAWS) * share * (1.0 - share)).sqrt();
                let off = (f64::from(count) - f64::from(DRAWS) * share).abs();
                assert!(off <= 5.0 * deviation + 1.0, "{weights:?}: {counts:?}");
            }
        }
        assert!(Alias::new(&vec![u16::MAX; 70_000]).draw(&mut Bits::of(1)).is_some());
        assert_eq!(Alias::new(&[]).draw(&mut Bits::of(1)), None);
    }
}
