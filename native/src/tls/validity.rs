//! Reads `notAfter` out of a DER certificate (RFC 5280 §4.1), which webpki checks but does not give out.

/// One DER element: (tag, contents, what follows it).
fn element(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = input.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let length = if first < 0x80 {
        usize::from(first)
    } else {
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 4 || rest.len() < count {
            return None;
        }
        let value = rest[..count].iter().fold(0usize, |n, b| (n << 8) | usize::from(*b));
        rest = &rest[count..];
        value
    };
    if rest.len() < length {
        return None;
    }
    Some((tag, &rest[..length], &rest[length..]))
}

fn two(digits: &[u8]) -> Option<i64> {
    match digits {
        [a @ b'0'..=b'9', b @ b'0'..=b'9'] => Some(i64::from(a - b'0') * 10 + i64::from(b - b'0')),
        _ => None,
    }
}

/// Days from 1970-01-01 to a date of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let doy = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

/// UTCTime `YYMMDDHHMMSSZ` (tag 0x17) or GeneralizedTime `YYYYMMDDHHMMSSZ` (0x18) as Unix milliseconds.
fn time_ms(tag: u8, text: &[u8]) -> Option<u64> {
    let (year, rest) = match tag {
        0x17 if text.len() == 13 => {
            let yy = two(&text[..2])?;
            (if yy >= 50 { 1900 + yy } else { 2000 + yy }, &text[2..])
        }
        0x18 if text.len() == 15 => (two(&text[..2])? * 100 + two(&text[2..4])?, &text[4..]),
        _ => return None,
    };
    if rest[10] != b'Z' {
        return None;
    }
    let (month, day) = (two(&rest[..2])?, two(&rest[2..4])?);
    let (hour, minute, second) = (two(&rest[4..6])?, two(&rest[6..8])?, two(&rest[8..10])?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    u64::try_from(seconds).ok().map(|s| s * 1_000)
}

/// `notAfter` of a certificate in Unix milliseconds; `None` if the bytes are no certificate.
pub fn not_after_ms(certificate: &[u8]) -> Option<u64> {
    let (_, certificate, _) = element(certificate)?;
    let (_, tbs, _) = element(certificate)?;
    let (tag, _, mut rest) = element(tbs)?;
    if tag == 0xa0 {
        rest = element(rest)?.2; // explicit version came first, this is the serial number
    }
    rest = element(rest)?.2; // signature algorithm
    rest = element(rest)?.2; // issuer
    let (_, validity, _) = element(rest)?;
    let (_, _, after) = element(validity)?;
    let (tag, text, _) = element(after)?;
    time_ms(tag, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_of_both_kinds() {
        assert_eq!(time_ms(0x17, b"700101000000Z"), Some(0));
        assert_eq!(time_ms(0x18, b"20240229120000Z"), Some(1_709_208_000_000));
        assert_eq!(time_ms(0x17, b"491231235959Z"), Some(2_524_607_999_000));
        assert_eq!(time_ms(0x17, b"240230250000Z"), None);
    }

    #[test]
    fn agrees_with_a_generated_certificate() {
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.not_after = rcgen::date_time_ymd(2031, 5, 17);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        assert_eq!(not_after_ms(certificate.der()), Some(1_936_742_400_000));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = not_after_ms(&bytes);
        }
    }
}
