//! The bearer token, and the check of a request against it.
//!
//! Invariant: the token is never printed, and a comparison takes the same time wherever a wrong
//! token differs.

use std::{fmt, hint::black_box};

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};

use super::ServeError;

/// A shared secret; `Debug` hides it.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Takes a token as the user gave it.
    ///
    /// # Errors
    ///
    /// [`ServeError::Token`]: it is empty or could not be sent in a header.
    pub fn parse(text: &str) -> Result<Self, ServeError> {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ServeError::Token);
        }
        Ok(Self(text.to_owned()))
    }

    /// Whether the request carries exactly one `Authorization: Bearer` with this token.
    pub fn admits(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return false;
        };
        let Some((scheme, given)) = value.as_bytes().split_at_checked(7) else {
            return false;
        };
        scheme.eq_ignore_ascii_case(b"Bearer ") && same(given.trim_ascii(), self.0.as_bytes())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Compares digests instead of texts: neither the length nor the first difference shows in the time.
fn same(left: &[u8], right: &[u8]) -> bool {
    let (left, right) = (Sha256::digest(left), Sha256::digest(right));
    let difference = left.iter().zip(&right).fold(0, |sum, (l, r)| sum | (l ^ r));
    black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn request(values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn only_the_exact_token_is_admitted() {
        let token = Token::parse("s3cret").expect("valid");
        assert!(token.admits(&request(&["Bearer s3cret"])));
        assert!(token.admits(&request(&["bearer s3cret"])));
        for wrong in ["Bearer s3cre", "Bearer s3crets", "Basic s3cret", "Bearer", "s3cret", ""] {
            assert!(!token.admits(&request(&[wrong])), "{wrong}");
        }
        assert!(!token.admits(&request(&[])));
        assert!(!token.admits(&request(&["Bearer s3cret", "Bearer s3cret"])));
    }

    #[test]
    fn the_token_is_not_printed() {
        let token = Token::parse("s3cret").expect("valid");
        assert!(!format!("{token:?}").contains("s3cret"));
        assert!(Token::parse("").is_err());
        assert!(Token::parse("two words").is_err());
    }
}
