//! `check`.

use std::io::IsTerminal;
use std::path::PathBuf;

use crate::cli::args::CheckArgs;
use crate::cli::fail::Fail;
use crate::cli::files;
use crate::cli::show;
use crate::config::Size;
use crate::lifecycle::Exit;
use crate::lifecycle::check::{self as verb, Checked, Counts, How};

pub(in crate::cli) fn check(arguments: &CheckArgs) -> Result<u8, Fail> {
    let key = files::key(&arguments.key)?;
    let how = if arguments.no_key { How::Form } else { How::Open(key.as_ref()) };
    let is_terminal = std::io::stderr().is_terminal();
    let mut told = false;
    let mut progress = |counts: Counts| {
        if is_terminal {
            told = true;
            show::note(&format!("\r\x1b[K{}", looked_at(counts)));
        }
    };
    let (store, threads) = (&arguments.store, arguments.threads);
    let result = match arguments.repair {
        true => verb::repair(store, key.as_ref(), threads, &mut progress),
        false => verb::check(store, how, threads, &mut progress),
    };
    if told {
        show::note("\r\x1b[K");
    }
    let checked = result?;
    if arguments.json {
        show::json(&checked)?;
    } else {
        show::text(&text(&checked))?;
    }
    Ok(if checked.is_damaged() { Exit::Damaged } else { Exit::Ok }.code())
}

fn looked_at(counts: Counts) -> String {
    let Counts { directories, files, links, others, bytes } = counts;
    let bytes = Size(bytes >> 20 << 20);
    format!("{directories} directories, {files} files ({bytes}), {links} links, {others} others")
}

fn text(checked: &Checked) -> String {
    let mut text = String::new();
    for finding in &checked.findings {
        text.push_str(&show::name(&PathBuf::from(finding.line())));
        text.push('\n');
    }
    let open = checked.findings.iter().filter(|finding| finding.is_open()).count();
    let harmless = checked.findings.iter().filter(|finding| finding.harmless).count();
    let how = if checked.opened { "opened" } else { "looked at without the key" };
    text.push_str(&format!(
        "{how}: {}\nfound: {open} damages, {harmless} that harm nobody\n",
        looked_at(checked.counts)
    ));
    if let Some(report) = &checked.report {
        text.push_str(&format!("report: {}\n", show::name(&PathBuf::from(report))));
    }
    text
}
