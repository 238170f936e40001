//! Copies of a volume: one more, one elsewhere, one less.

use lockstep_api::{Client, proto};

use super::wait::{WaitArgs, until};
use super::{PlaceArgs, settle, show};
use crate::connect::words;
use crate::output::Output;

/// `lockstep volume add-replica`.
pub(super) async fn add(
    volume: String,
    PlaceArgs { node, pool }: PlaceArgs,
    wait: &WaitArgs,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    let (node, pool) = (node.unwrap_or_default(), pool.unwrap_or_default());
    let request = proto::AddReplicaRequest { volume, node, pool };
    let reply = client
        .volumes()
        .add_replica(request)
        .await
        .map_err(words)?
        .into_inner();
    settle(reply.volume.unwrap_or_default(), wait, client, output).await
}

/// `lockstep volume move-replica`.
pub(super) async fn move_away(
    volume: String,
    from: String,
    PlaceArgs { node, pool }: PlaceArgs,
    wait: &WaitArgs,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    let (node, pool) = (node.unwrap_or_default(), pool.unwrap_or_default());
    let request = proto::MoveReplicaRequest {
        volume,
        from,
        node,
        pool,
    };
    let reply = client
        .volumes()
        .move_replica(request)
        .await
        .map_err(words)?
        .into_inner();
    settle(reply.volume.unwrap_or_default(), wait, client, output).await
}

/// `lockstep volume remove-replica`; with `--wait` until the copy is gone, for what is left may be fewer
/// copies than the policy asks for.
pub(super) async fn remove(
    request: proto::RemoveReplicaRequest,
    wait: &WaitArgs,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    let reply = client
        .volumes()
        .remove_replica(request)
        .await
        .map_err(words)?
        .into_inner();
    let volume = reply.volume.unwrap_or_default();
    if !wait.wait {
        return show(output, volume);
    }
    let is_gone = |volume: &proto::Volume| volume.replicas.iter().all(|it| it.id != reply.replica);
    show(
        output,
        until(client, output, &volume.name, wait.patience(), is_gone).await?,
    )
}

/// `lockstep volume keep-replica`.
pub(super) async fn keep(
    volume: String,
    replica: String,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    let request = proto::KeepReplicaRequest { volume, replica };
    let reply = client
        .volumes()
        .keep_replica(request)
        .await
        .map_err(words)?
        .into_inner();
    show(output, reply.volume.unwrap_or_default())
}
