//! A proxy in front of an AWS emulator: counts calls, keeps what was said, and answers by itself
//! where the emulator is not faithful or a network would fail.

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};

use super::http::Message;

/// What happens to a call instead of being passed on.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// An error answer as the AWS JSON protocol has it.
    Error {
        /// HTTP status: 400 for most, 500 for internal ones.
        status: u16,
        /// The error's code: `DisabledException`.
        code: &'static str,
        /// What a person reads.
        message: String,
    },
    /// An error answer of S3, which names the bucket's region too if one is given.
    S3 {
        /// HTTP status.
        status: u16,
        /// The error's code: `AccessDenied`.
        code: &'static str,
        /// What a person reads.
        message: &'static str,
        /// As `x-amz-bucket-region` names it.
        region: Option<&'static str>,
    },
    /// Any other answer.
    Answer {
        /// HTTP status.
        status: u16,
        /// The whole body.
        body: String,
    },
    /// No answer while the proxy lives.
    Hang,
    /// The connection is reset after the request was read.
    Reset,
}

impl Fault {
    /// An error of status 400.
    pub(crate) fn error(code: &'static str, message: &str) -> Self {
        Self::Error { status: 400, code, message: message.to_owned() }
    }
}

/// One call that came in.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// `Decrypt`.
    pub(crate) operation: String,
    /// The request line: `PUT /bucket/key HTTP/1.1`.
    pub(crate) first: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// Bytes of the request's body.
    pub(crate) len: usize,
    /// The request's body.
    pub(crate) input: Value,
    /// The answer's body; null if none was sent.
    pub(crate) output: Value,
    /// As the answer names the request.
    pub(crate) request_id: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    /// By operation: the fault and how many more calls get it.
    faults: HashMap<String, (Fault, usize)>,
    /// By ARN of a key.
    keys: HashMap<String, Fault>,
    /// By operation and a part of the request line.
    places: Vec<(String, String, Fault)>,
    calls: Vec<Call>,
    connections: usize,
    /// Stands in answers instead of their own.
    date: Option<String>,
    ending: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    ended: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A running proxy; ends on drop.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: String,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Passes on to `upstream`, `HOST:PORT`.
    pub(crate) fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let shared = Arc::new(Shared::default());
        let (inner, upstream) = (Arc::clone(&shared), upstream.to_owned());
        let listening = thread::spawn(move || listen(&listener, &inner, &upstream));
        Self { address, shared, listening: Some(listening) }
    }

    /// As `AWS_ENDPOINT_URL` takes it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on, calls of `operation` meet `fault`.
    pub(crate) fn fault(&self, operation: &str, fault: Fault) {
        self.fault_times(operation, fault, usize::MAX);
    }

    /// The next `times` calls of `operation` meet `fault`.
    pub(crate) fn fault_times(&self, operation: &str, fault: Fault, times: usize) {
        let mut state = self.shared.lock();
        match times {
            0 => drop(state.faults.remove(operation)),
            _ => drop(state.faults.insert(operation.to_owned(), (fault, times))),
        }
    }

    /// From now on, calls that name this key, and meet no fault of their operation, meet `fault`;
    /// `None`: they pass.
    pub(crate) fn fault_of_key(&self, arn: &str, fault: Option<Fault>) {
        let keys = &mut self.shared.lock().keys;
        match fault {
            Some(fault) => drop(keys.insert(arn.to_owned(), fault)),
            None => drop(keys.remove(arn)),
        }
    }

    /// From now on, calls of `operation` whose request line has this part, and that meet no fault
    /// of the operation, meet `fault`; `None`: they pass.
    pub(crate) fn fault_at(&self, operation: &str, part: &str, fault: Option<Fault>) {
        let places = &mut self.shared.lock().places;
        places.retain(|(of, at, _)| (of.as_str(), at.as_str()) != (operation, part));
        places.extend(fault.map(|fault| (operation.to_owned(), part.to_owned(), fault)));
    }

    /// From now on, answers that are passed on have this `Date`.
    pub(crate) fn date(&self, date: &str) {
        self.shared.lock().date = Some(date.to_owned());
    }

    /// Every call so far, in the order in which they came in.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.shared.lock().calls.clone()
    }

    /// How many connections came in.
    pub(crate) fn connections(&self) -> usize {
        self.shared.lock().connections
    }

    /// How often `operation` was called.
    pub(crate) fn count(&self, operation: &str) -> usize {
        self.shared.lock().calls.iter().filter(|call| call.operation == operation).count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.lock().ending = true;
        self.shared.ended.notify_all();
        // Wakes the listener, which then sees the mark.
        match TcpStream::connect(&self.address) {
            Ok(_) => {
                let ended = self.listening.take().expect("dropped once").join();
                assert!(ended.is_ok() || thread::panicking(), "the proxy's listener panicked");
            }
            Err(error) => eprintln!("proxy {}: {error}", self.address),
        }
    }
}

fn listen(listener: &TcpListener, shared: &Arc<Shared>, upstream: &str) {
    for stream in listener.incoming() {
        if shared.lock().ending {
            return;
        }
        shared.lock().connections += 1;
        let (shared, upstream) = (Arc::clone(shared), upstream.to_owned());
        thread::spawn(move || {
            let served = stream.and_then(|stream| serve(&stream, &shared, &upstream));
            if let Err(error) = served {
                eprintln!("proxy: {error}");
            }
        });
    }
}

fn serve(stream: &TcpStream, shared: &Shared, upstream: &str) -> io::Result<()> {
    let Some(request) = Message::read(stream)? else { return Ok(()) };
    let operation = request.operation();
    let input = serde_json::from_slice(&request.body).unwrap_or_default();
    let (fault, date, index) = {
        let mut state = shared.lock();
        let fault = take_fault(&mut state, &operation)
            .or_else(|| fault_of_keys(&state, &input))
            .or_else(|| fault_of_places(&state, &operation, &request.first));
        state.calls.push(Call {
            operation,
            first: request.first.clone(),
            headers: request.headers.clone(),
            len: request.body.len(),
            input,
            output: Value::Null,
            request_id: None,
        });
        (fault, state.date.clone(), state.calls.len() - 1)
    };
    let mut answer = match fault {
        None => request.exchange(upstream)?,
        Some(Fault::Error { status, code, message }) => {
            answer(status, json!({ "__type": code, "message": message }).to_string())
        }
        Some(Fault::S3 { status, code, message, region }) => {
            let body = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>\
                 <Message>{message}</Message></Error>"
            );
            let mut answer = answer(status, body);
            let region = region.map(|region| ("x-amz-bucket-region".to_owned(), region.to_owned()));
            answer.headers.extend(region);
            answer
        }
        Some(Fault::Answer { status, body }) => answer(status, body),
        Some(Fault::Reset) => {
            // Closing with a linger of zero sends a reset instead of an orderly end.
            rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
            return Ok(());
        }
        Some(Fault::Hang) => {
            let state = shared.lock();
            drop(shared.ended.wait_while(state, |state| !state.ending));
            return Ok(());
        }
    };
    if let Some(date) = date {
        answer.headers.retain(|(name, _)| name != "date");
        answer.headers.push(("date".to_owned(), date));
    }
    let request_id = answer.header("x-amzn-requestid").map(str::to_owned);
    let request_id = request_id.unwrap_or_else(|| {
        let made = format!("00000000-0000-4000-8000-{index:012x}");
        answer.headers.push(("x-amzn-requestid".to_owned(), made.clone()));
        made
    });
    {
        let call = &mut shared.lock().calls[index];
        call.output = serde_json::from_slice(&answer.body).unwrap_or_default();
        call.request_id = Some(request_id);
    }
    answer.write(stream)?;
    stream.shutdown(Shutdown::Write)
}

fn take_fault(state: &mut State, operation: &str) -> Option<Fault> {
    let (fault, left) = state.faults.get_mut(operation)?;
    let fault = fault.clone();
    *left -= 1;
    if *left == 0 {
        state.faults.remove(operation);
    }
    Some(fault)
}

fn fault_of_keys(state: &State, input: &Value) -> Option<Fault> {
    ["KeyId", "SourceKeyId", "DestinationKeyId"]
        .iter()
        .filter_map(|field| input[field].as_str())
        .find_map(|arn| state.keys.get(arn).cloned())
}

fn fault_of_places(state: &State, operation: &str, first: &str) -> Option<Fault> {
    let mut places = state.places.iter();
    let found = places.find(|(of, part, _)| of == operation && first.contains(part));
    found.map(|(_, _, fault)| fault.clone())
}

fn answer(status: u16, body: String) -> Message {
    let content_type = ("content-type".to_owned(), "application/x-amz-json-1.1".to_owned());
    Message {
        first: format!("HTTP/1.1 {status} From the proxy"),
        headers: vec![content_type],
        body: body.into_bytes(),
    }
}
