//! `snapshot`.

use crate::cli::args::{SnapshotKeyArgs, SnapshotVerb, SseArgs};
use crate::cli::fail::Fail;
use crate::cli::mount::key_source;
use crate::cli::show;
use crate::config::Size;
use crate::keys::KeySource;
use crate::lifecycle::snapshot::{
    self as verb, Created, Keep, Line, Moving, Place, Pruned, Shown, Wanted,
};
use crate::lifecycle::{Exit, VerbError};

pub(in crate::cli) fn key(arguments: &SnapshotKeyArgs) -> Result<Option<KeySource>, Fail> {
    let Some(text) = arguments.key.as_deref() else { return Ok(None) };
    let source = key_source(text)?.parse();
    source.map(Some).map_err(|error| Fail::from(VerbError::Key(error)))
}

/// With what was said of the encryption in S3.
pub(in crate::cli) fn encrypting(
    moving: Moving,
    sse: &SseArgs,
    target: &Place,
) -> Result<Moving, Fail> {
    let encryption = sse.encryption(target).map_err(Fail::usage)?;
    Ok(Moving { encryption, ..moving })
}

pub(in crate::cli) fn snapshot(wanted: &SnapshotVerb) -> Result<u8, Fail> {
    match wanted {
        SnapshotVerb::Create { volume, target, key: source, moving, sse, rate, repair, json } => {
            let moving = Moving { repair: *repair, ..moving.moving(*rate) };
            let moving = encrypting(moving, sse, target)?;
            let made = verb::create(volume, target, key(source)?.as_ref(), &moving)?;
            created(&made, *json)?;
        }
        SnapshotVerb::List { target, json } => list(target, *json)?,
        SnapshotVerb::Show { target, id, key: source, json } => {
            let found = verb::show(target, id.as_deref(), key(source)?.as_ref())?;
            shown(&found, *json)?;
        }
        SnapshotVerb::Verify { target, id, sample, key: source, moving, json } => {
            let (source, moving) = (key(source)?, moving.moving(None));
            let verified = verb::verify(target, id.as_deref(), *sample, source.as_ref(), &moving);
            return told(verified?, *json);
        }
        SnapshotVerb::Prune {
            target,
            keep,
            keep_within,
            volume,
            dry_run,
            sse,
            key: source,
            moving,
            json,
        } => {
            let keep = Keep { count: *keep, age: *keep_within };
            let moving = encrypting(moving.moving(None), sse, target)?;
            let source = key(source)?;
            let done = verb::prune(target, *volume, keep, !dry_run, source.as_ref(), &moving)?;
            pruned(&done, *json)?;
        }
        SnapshotVerb::Restore { target, store, id, path, key: source, moving } => {
            let wanted = Wanted { id: id.clone(), path: path.clone() };
            let (source, moving) = (key(source)?, moving.moving(None));
            let (id, _) = verb::restore(target, store, &wanted, source.as_ref(), &moving)?;
            show::text(&format!("{id}\n"))?;
        }
    }
    Ok(Exit::Ok.code())
}

fn created(made: &Created, json: bool) -> Result<(), Fail> {
    let Created { clear, moved, paused } = made;
    if !json {
        return show::text(&format!("{}\n", clear.id));
    }
    show::json(&serde_json::json!({
        "id": clear.id,
        "volume_id": clear.volume_id,
        "created_unix_ms": clear.created_unix_ms,
        "parent": clear.parent,
        "files": clear.files,
        "bytes": clear.bytes,
        "read_bytes": moved.read_bytes,
        "sent_bytes": moved.sent_bytes,
        "sent_objects": moved.sent_objects,
        "repaired_objects": moved.repaired_objects,
        "paused_ms": u64::try_from(paused.as_millis()).unwrap_or(u64::MAX),
    }))
}

fn taken(line: &Line) -> String {
    show::time(i64::try_from(line.created_unix_ms / 1000).unwrap_or(i64::MAX))
}

fn list(target: &Place, json: bool) -> Result<(), Fail> {
    let found = verb::list(target)?;
    if json {
        return show::json(&serde_json::json!({ "snapshots": found }));
    }
    let head = ["snapshot", "taken", "volume", "files", "bytes", "sent"].map(str::to_owned);
    let mut rows = vec![head.to_vec()];
    rows.extend(found.iter().map(|line| {
        let sent = line.sent_bytes.map(|bytes| bytes.to_string());
        vec![
            show::name(line.id.as_ref()),
            taken(line),
            line.volume_id.to_string(),
            line.files.to_string(),
            line.bytes.to_string(),
            sent.unwrap_or_else(|| "-".to_owned()),
        ]
    }));
    show::text(&show::table(&rows))
}

fn shown(found: &Shown, json: bool) -> Result<(), Fail> {
    if json {
        return show::json(found);
    }
    let line = &found.line;
    let mut rows = vec![
        ("snapshot".to_owned(), line.id.clone()),
        ("volume".to_owned(), line.volume_id.to_string()),
        ("taken".to_owned(), taken(line)),
        ("compared with".to_owned(), line.parent.clone().unwrap_or_else(|| "none".to_owned())),
        ("files".to_owned(), line.files.to_string()),
        ("bytes".to_owned(), line.bytes.to_string()),
        ("objects".to_owned(), found.objects.to_string()),
        ("key epoch".to_owned(), found.epoch.to_string()),
    ];
    for slot in &found.slots {
        rows.push((format!("key slot {}", slot.id), format!("{} {}", slot.provider, slot.key)));
    }
    let rows: Vec<_> = rows.into_iter().map(|(name, value)| vec![name, value]).collect();
    show::text(&show::table(&rows))
}

fn told((id, verified): (String, verb::Verified), json: bool) -> Result<u8, Fail> {
    if json {
        let mut value = serde_json::to_value(&verified).map_err(|e| show::failed(e.into()))?;
        value["id"] = id.into();
        show::json(&value)?;
    } else {
        for fault in &verified.faults {
            show::text(&format!("{}\n", show::name(fault.as_ref())))?;
        }
        let verb::Verified { objects, pieces, bytes, faults } = &verified;
        let bytes = Size(bytes >> 20 << 20);
        let text = format!("{id}: {objects} objects, {pieces} pieces read ({bytes}), ");
        show::text(&format!("{text}{} damages\n", faults.len()))?;
    }
    let exit = if verified.faults.is_empty() { Exit::Ok } else { Exit::SnapshotDamaged };
    Ok(exit.code())
}

fn pruned(done: &Pruned, json: bool) -> Result<(), Fail> {
    if json {
        return show::json(done);
    }
    let mut rows: Vec<_> = done.kept.iter().map(|id| vec!["kept".to_owned(), id.clone()]).collect();
    rows.extend(done.removed.iter().map(|id| vec!["removed".to_owned(), id.clone()]));
    let freed = format!("{} objects, {} bytes", done.freed.objects, done.freed.bytes);
    rows.push(vec!["freed".to_owned(), freed]);
    show::text(&show::table(&rows))
}
