//! Names on the wire: labels with lengths, and pointers to where the rest was said before.

use std::fmt;

/// The longest name in wire form, with the root's zero (RFC 1035 §2.3.4).
pub(crate) const NAME_BYTES_MAX: usize = 255;
/// A name has at most 127 labels, so more pointers lead nowhere useful.
const POINTERS_MAX: usize = 127;

/// A name in wire form without pointers, in lower case.
#[derive(Clone, Copy)]
pub(crate) struct Name {
    length: u8,
    bytes: [u8; NAME_BYTES_MAX],
}

/// Why a message cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// It ends too early.
    #[error("the message ends within a field")]
    Short,
    /// A label of a type that is not in use.
    #[error("a label begins with the reserved bits 01 or 10")]
    Label,
    /// A pointer that does not lead backwards, or one of too many.
    #[error("a compression pointer does not lead backwards")]
    Pointer,
    /// A name beyond its limit.
    #[error("a name is longer than {NAME_BYTES_MAX} bytes")]
    Long,
}

impl Name {
    /// No name yet: [`read_name`] fills it.
    pub(crate) const fn empty() -> Self {
        Self { length: 0, bytes: [0; NAME_BYTES_MAX] }
    }

    /// The wire form.
    pub(crate) fn wire(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    fn push(&mut self, part: &[u8]) -> Result<(), WireError> {
        let start = usize::from(self.length);
        let end = start + part.len();
        let space = self.bytes.get_mut(start..end).ok_or(WireError::Long)?;
        space.copy_from_slice(part);
        // A length octet is at most 63 and so below 'A': it stays as it is.
        space.make_ascii_lowercase();
        self.length = u8::try_from(end).map_err(|_| WireError::Long)?;
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.wire();
        while let Some((length, after)) = rest.split_first().filter(|(length, _)| **length > 0) {
            let (label, after) = after.split_at(usize::from(*length));
            write!(f, "{}.", label.escape_ascii())?;
            rest = after;
        }
        Ok(())
    }
}

/// Reads the name at `at` into `name` and returns where the next field begins. Each pointer
/// must lead below everything read before it, so no chain of them can go in circles.
pub(crate) fn read_name(message: &[u8], at: usize, name: &mut Name) -> Result<usize, WireError> {
    name.length = 0;
    let (mut here, mut floor) = (at, at);
    let mut next = None;
    let mut pointers = 0;
    loop {
        let first = *message.get(here).ok_or(WireError::Short)?;
        match first & 0xc0 {
            0x00 => {
                let end = here + 1 + usize::from(first);
                name.push(message.get(here..end).ok_or(WireError::Short)?)?;
                here = end;
                if first == 0 {
                    return Ok(next.unwrap_or(here));
                }
            }
            0xc0 => {
                let second = *message.get(here + 1).ok_or(WireError::Short)?;
                let target = usize::from(first & 0x3f) << 8 | usize::from(second);
                pointers += 1;
                if target >= floor || pointers > POINTERS_MAX {
                    return Err(WireError::Pointer);
                }
                next.get_or_insert(here + 2);
                (here, floor) = (target, target);
            }
            _ => return Err(WireError::Label),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(message: &[u8], at: usize) -> Result<(usize, Vec<u8>), WireError> {
        let mut name = Name::empty();
        read_name(message, at, &mut name).map(|next| (next, name.wire().to_vec()))
    }

    #[test]
    fn a_name_is_read_in_lower_case_through_its_pointers() {
        let message = b"\x03Web\x02ab\x00\x01x\xc0\x04\xc0\x08";
        assert_eq!(read(message, 0), Ok((8, b"\x03web\x02ab\x00".to_vec())));
        assert_eq!(read(message, 8), Ok((12, b"\x01x\x02ab\x00".to_vec())));
        assert_eq!(read(message, 12), Ok((14, b"\x01x\x02ab\x00".to_vec())));
        assert_eq!(
            format!("{:?}", {
                let mut n = Name::empty();
                read_name(message, 0, &mut n).unwrap();
                n
            }),
            "web.ab."
        );
    }

    #[test]
    fn what_is_no_name_says_why() {
        let long = [&[63_u8; 64][..]; 4].concat();
        for (message, at, expected) in [
            (&b""[..], 0, WireError::Short),
            (b"\x03we", 0, WireError::Short),
            (b"\x03web", 0, WireError::Short),
            (b"\xc0", 0, WireError::Short),
            (b"\x40a\x00", 0, WireError::Label),
            (b"\x80a\x00", 0, WireError::Label),
            // To itself, forwards, and two that lead to each other.
            (b"\xc0\x00", 0, WireError::Pointer),
            (b"\xc0\x02\x00", 0, WireError::Pointer),
            (b"\xc0\x02\xc0\x00", 2, WireError::Pointer),
            (b"\x01a\xc0\x00", 0, WireError::Pointer),
            (&long, 0, WireError::Long),
        ] {
            assert_eq!(read(message, at).unwrap_err(), expected, "{message:x?}");
        }
    }

    #[test]
    fn a_long_chain_of_pointers_is_cut() {
        let mut message = vec![0];
        for target in 0..200_u16 {
            let target = if target == 0 { 0 } else { target * 2 - 1 };
            message.extend_from_slice(&(0xc000 | target).to_be_bytes());
        }
        assert!(read(&message, 1 + 2 * 100).is_ok());
        assert_eq!(read(&message, 1 + 2 * 199).unwrap_err(), WireError::Pointer);
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_a_name_or_an_error(
            message in proptest::collection::vec(any::<u8>(), 0..600),
            at in 0_usize..600,
        ) {
            if let Ok((next, name)) = read(&message, at) {
                prop_assert!(next > at && next <= message.len());
                prop_assert!(name.len() <= NAME_BYTES_MAX && name.ends_with(&[0]));
                // What was read is plain: reading it again changes nothing.
                prop_assert_eq!(read(&name, 0), Ok((name.len(), name)));
            }
        }

        #[test]
        fn pointers_everywhere_never_loop(
            words in proptest::collection::vec(0xc000_u16..0xc100, 1..130),
            at in 0_usize..128,
        ) {
            let message: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            let _ = read(&message, at);
        }
    }
}
