//! What the control command writes to set a policy: which function it is for, and the program.

use core::fmt;

/// The longest name of a function, with its object's.
const MAX_NAME: usize = 640;

/// A policy and what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// `FUNCTION` or `OBJECT:FUNCTION`; all functions of the update if it is `None`.
    pub function: Option<&'a str>,
    /// The bytes of a [`Program`](super::Program).
    pub program: &'a [u8],
}

/// Bytes that are no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestError;

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a request for a policy: use `dynamos policy`")
    }
}

impl<'a> Request<'a> {
    /// Reads what was written: the length of the name in two bytes, the name, the program.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RequestError> {
        let (len, rest) = bytes.split_first_chunk::<2>().ok_or(RequestError)?;
        let len = usize::from(u16::from_le_bytes(*len));
        let (name, program) = rest.split_at_checked(len).ok_or(RequestError)?;
        let name = core::str::from_utf8(name).map_err(|_| RequestError)?;
        // It is shown in logs.
        if len > MAX_NAME || name.chars().any(char::is_control) {
            return Err(RequestError);
        }
        Ok(Self { function: (!name.is_empty()).then_some(name), program })
    }

    /// Whether it is for this function of this object.
    pub fn selects(&self, object: &str, function: &str) -> bool {
        match self.function {
            None => true,
            Some(name) => match name.split_once(':') {
                Some((wanted, name)) => wanted == object && name == function,
                None => name == function,
            },
        }
    }

    /// The bytes; a name that is longer than any is cut, and so selects nothing.
    #[cfg(any(test, feature = "compile"))]
    pub fn encode(&self) -> alloc::vec::Vec<u8> {
        let name = self.function.unwrap_or_default().as_bytes();
        let name = name.get(..MAX_NAME).unwrap_or(name);
        let mut bytes = (name.len() as u16).to_le_bytes().to_vec();
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(self.program);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_may_have_its_object() {
        let request = |function| Request { function, program: &[] };
        assert!(request(None).selects("ext4", "f"));
        assert!(request(Some("f")).selects("ext4", "f"));
        assert!(!request(Some("f")).selects("ext4", "f.isra.0"));
        assert!(request(Some("ext4:f")).selects("ext4", "f"));
        assert!(!request(Some("vmlinux:f")).selects("ext4", "f"));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for bytes in [&b""[..], b"\0", b"\x05\0abc", b"\x01\0\n", b"\x01\0\xff", b"\xff\xff"] {
            assert_eq!(Request::parse(bytes), Err(RequestError), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn it_reads_what_it_writes(name in "[a-z:_.0-9]{0,40}", program: Vec<u8>) {
            let function = (!name.is_empty()).then_some(name.as_str());
            let request = Request { function, program: &program };
            let bytes = request.encode();
            prop_assert_eq!(Request::parse(&bytes), Ok(request));
        }

        #[test]
        fn any_bytes_do_no_harm(bytes: Vec<u8>) {
            let _ = Request::parse(&bytes);
        }
    }
}
