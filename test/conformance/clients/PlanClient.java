// Client of the plan (clients/plan.ts) with java.net.http: `PlanClient http1|http2 BASE PLAN`. Its HTTP/2 without TLS asks for an upgrade of HTTP/1.1.
import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.HexFormat;

public final class PlanClient {
  private static byte[] pattern(int size) {
    byte[] bytes = new byte[size];
    for (int i = 0; i < size; i++) bytes[i] = (byte) (i % 251);
    return bytes;
  }

  public static void main(String[] args) throws Exception {
    var version = args[0].equals("http1") ? HttpClient.Version.HTTP_1_1 : HttpClient.Version.HTTP_2;
    var client = HttpClient.newBuilder().version(version).build();
    for (String line : args[2].split("\n")) {
      String[] parts = line.split("\t", -1);
      boolean told = !parts[3].startsWith("c");
      byte[] bytes = pattern(Integer.parseInt(told ? parts[3] : parts[3].substring(1)));
      var body =
          bytes.length == 0
              ? HttpRequest.BodyPublishers.noBody()
              : told
                  ? HttpRequest.BodyPublishers.ofByteArray(bytes)
                  : HttpRequest.BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(bytes));
      var request =
          HttpRequest.newBuilder(URI.create(args[1] + parts[2])).method(parts[1], body).timeout(Duration.ofSeconds(60));
      if (parts[4].startsWith("expect:")) request.expectContinue(true);
      else if (!parts[4].isEmpty()) {
        int at = parts[4].indexOf(':');
        request.header(parts[4].substring(0, at), parts[4].substring(at + 1));
      }
      try {
        var answer = client.send(request.build(), HttpResponse.BodyHandlers.ofByteArray());
        var sum = MessageDigest.getInstance("SHA-256").digest(answer.body());
        var back = answer.headers().firstValue("x-back").orElse("");
        System.out.println(
            String.join(
                "\t",
                parts[0],
                "" + answer.statusCode(),
                "" + answer.body().length,
                HexFormat.of().formatHex(sum).substring(0, 16),
                back));
      } catch (Exception e) {
        System.out.println(parts[0] + "\terror\t" + e.toString().replace('\n', ' '));
      }
    }
    System.exit(0);
  }
}
