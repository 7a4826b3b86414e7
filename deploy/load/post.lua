-- For wrk, in the repository's folder: posts a picture of a digit.
local file = io.open("tests/samples/7.png", "rb")
wrk.method = "POST"
wrk.headers["Content-Type"] = "image/png"
wrk.body = file:read("*a")
file:close()
