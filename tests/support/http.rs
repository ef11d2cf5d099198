//! As much HTTP/1.1 as the proxy and the calls to the emulator need: one message a connection,
//! bodies with `Content-Length` or up to the end.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Longer than any wait of the program under test: only a broken test runs into it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request or an answer.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// Request line or status line.
    pub(crate) first: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// The body, as sent.
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// The next message of the stream; `None` at its end.
    pub(crate) fn read(stream: &TcpStream) -> io::Result<Option<Self>> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut reader = BufReader::new(stream);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        if lines.is_empty() {
            return Ok(None);
        }
        let first = lines.remove(0);
        let headers: Vec<_> = lines
            .iter()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut message = Self { first, headers, body: Vec::new() };
        match message.header("content-length") {
            Some(length) => {
                let length: u64 = length.parse().map_err(io::Error::other)?;
                reader.take(length).read_to_end(&mut message.body)?;
            }
            None if message.first.starts_with("HTTP/") => {
                reader.read_to_end(&mut message.body)?;
            }
            None => {}
        }
        Ok(Some(message))
    }

    /// Value of a header, named in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Sends it, to be the last on its connection.
    pub(crate) fn write(&self, mut stream: &TcpStream) -> io::Result<()> {
        let mut text = format!("{}\r\n", self.first);
        for (name, value) in &self.headers {
            if !["connection", "content-length", "transfer-encoding"].contains(&name.as_str()) {
                text += &format!("{name}: {value}\r\n");
            }
        }
        text += &format!("content-length: {}\r\nconnection: close\r\n\r\n", self.body.len());
        stream.write_all(text.as_bytes())?;
        stream.write_all(&self.body)
    }

    /// Sends a request to `address` and returns the answer.
    pub(crate) fn exchange(&self, address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        self.write(&stream)?;
        Self::read(&stream)?.ok_or_else(|| io::Error::other("closed without an answer"))
    }

    /// Operation that a request names: `Decrypt` for `X-Amz-Target: TrentService.Decrypt`, of STS
    /// `AssumeRole` for `Action=AssumeRole`, or of S3 by its method.
    pub(crate) fn operation(&self) -> String {
        if self.header("authorization").is_some_and(|text| text.contains("/s3/aws4_request")) {
            let of_s3 = match self.first.split([' ', '?']).next().unwrap_or_default() {
                "PUT" => "PutObject",
                "GET" if self.first.contains("list-type=2") => "ListObjectsV2",
                "GET" => "GetObject",
                "DELETE" => "DeleteObject",
                "POST" if self.first.contains("?delete") => "DeleteObjects",
                _ => "",
            };
            return of_s3.to_owned();
        }
        if let Some(target) = self.header("x-amz-target") {
            return target.rsplit('.').next().unwrap_or_default().to_owned();
        }
        let body = String::from_utf8_lossy(&self.body);
        let action = body.split('&').find_map(|pair| pair.strip_prefix("Action="));
        action.unwrap_or_default().to_owned()
    }
}
