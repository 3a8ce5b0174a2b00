// A board that several people see at once. A click moves a card on to the next column.
import { Stream } from "@motiadev/stream-client-browser"

const given = new URLSearchParams(location.search)
const api = `${given.get("api")}/v1/items/board/sprint`
const next = { todo: "doing", doing: "done", done: "todo" }

const group = new Stream(given.get("socket")).subscribeGroup("board", "sprint")
group.addChangeListener((cards) => {
  for (const card of document.querySelectorAll(".card")) card.remove()
  for (const { id, title, column } of cards ?? []) {
    const card = document.createElement("div")
    card.className = "card"
    card.dataset.id = id
    card.textContent = title
    card.onclick = () => fetch(`${api}/${id}`, { method: "PATCH", body: JSON.stringify([{ type: "set", path: "column", value: next[column] }]) })
    document.getElementById(column).append(card)
  }
})

document.getElementById("add").onclick = () => {
  const id = crypto.randomUUID()
  const title = document.getElementById("title").value
  return fetch(`${api}/${id}`, { method: "PUT", headers: { "If-None-Match": "*" }, body: JSON.stringify({ id, title, column: "todo" }) })
}
